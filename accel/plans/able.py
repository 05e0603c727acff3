"""What a policy's family can do, asked where a setting needs it."""

from __future__ import annotations

from ..families import family_of
from ..protocol import Accelerable
from .plan import PlanError
from .sites import sites_of


def check_sites(policy: Accelerable, what: str) -> None:
    """Refuse a network that shows no place that a cache can fill.

    Raises:
        PlanError: names what was asked for.
    """
    if not sites_of(policy):
        raise PlanError(family_of(policy).lacks(what, "sites that it can fill"))


def check_branches(policy: Accelerable, what: str) -> None:
    """Refuse a network without residual branches, which calibrations are statistics of.

    Raises:
        PlanError: names what was asked for.
    """
    family = family_of(policy)
    if not family.calibratable:
        raise PlanError(family.lacks(what, "a transformer"))


def check_quantizable(policy: Accelerable, what: str) -> None:
    """Refuse a network whose linear layers the engines do not know, and that has no encoder.

    Raises:
        PlanError: names what was asked for.
    """
    family = family_of(policy)
    if not family.quantizable and getattr(policy, "encoder", None) is None:
        raise PlanError(family.lacks(what, "a transformer"))
