"""A plan that was saved, as it is, or fitted to another checkpoint or sampler where asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.calibration import Calibration
from ..plans.plan import CachePlan, PlanError, PlanSampler
from ..plans.sites import sites_of
from ..protocol import Accelerable

PLAN_FILE = "plan.json"


@dataclass
class SavedPlanConfig:
    """A plan of `runner=show`, or of `CachePlan.save`.

    path: a plan's JSON, or a folder with a plan.json.
    allow_foreign_schedule: use the schedule of another checkpoint; what was computed often enough
        for one policy may be too little for another.
    remap: move a schedule of another sampler to this one's steps, see `adapt_plan`; fewer steps of
        the sampler leave fewer update steps.
    """

    name: str = "plan"
    path: str | None = None
    allow_foreign_schedule: bool = False
    remap: bool = False


def resolve_saved(
    config: SavedPlanConfig, policy: Accelerable, calibration: Calibration | None = None
) -> CachePlan:
    """The plan in the file; PlanError where it does not fit the policy and may not be adapted."""
    plan = CachePlan.load(find_plan(config.path))
    return adapt_plan(plan, policy, config.allow_foreign_schedule, config.remap)


def saved_identity(config: SavedPlanConfig, policy: Accelerable) -> dict[str, Any]:
    """What changes an action, wherever the file is: the plan, and what was done to it."""
    plan = resolve_saved(config, policy)
    return {"name": config.name, "plan": plan.digest(), "adapted": list(plan.adapted)}


def find_plan(path: str | None) -> Path:
    """The file that cache.path names.

    Raises:
        PlanError: none; the message says which are there.
    """
    if path is None:
        raise PlanError(
            "cache.path must name a plan.json (of runner=show, or of CachePlan.save), got null"
        )
    file = Path(path) / PLAN_FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        here = next(folder for folder in file.absolute().parents if folder.is_dir())
        there = sorted(p.name for p in here.glob("*.json"))[:8]
        raise PlanError(
            f"cache.path: no plan at {file}; {here} holds {', '.join(there) or 'no .json file'}"
        )
    return file


def adapt_plan(
    plan: CachePlan,
    policy: Accelerable,
    allow_foreign_schedule: bool = False,
    remap: bool = False,
) -> CachePlan:
    """A plan for this policy; `adapted` says what had to be done to it.

    Args:
        plan: of a policy with the same sites.
        policy: that will run under it.
        allow_foreign_schedule: the plan may be of another checkpoint.
        remap: the plan may be of another sampler, or number of steps. Each update step goes to the
            step of the policy's sampler nearest in alpha-bar, step 0 is one again, and steps that
            meet are one. Forecasts are refused: their coefficients belong to the distances between
            the plan's own steps.

    Raises:
        PlanError: other sites, or another checkpoint or sampler that was not allowed.
    """
    if plan.policy == policy.fingerprint():
        plan.check(policy)
        return plan
    if plan.sites != sites_of(policy):
        raise PlanError("the plan was made for another network: their sites differ")
    if plan.sampler is None:
        raise PlanError(
            "the plan was made for another checkpoint or sampler, and an older version wrote it, "
            "without its sampler: it cannot be fitted to this one; save it again where it fits"
        )
    if plan.decide is not None:
        raise PlanError(
            "the plan decides at run time, by what was calibrated on another checkpoint or "
            "sampler: make it for this one"
        )
    here, mask = PlanSampler.of(policy), plan.mask
    done: list[str] = []
    if plan.policy != policy.fingerprint(plan.sampler.settings):
        if not allow_foreign_schedule:
            raise PlanError(
                "the plan was made for another checkpoint: cache.allow_foreign_schedule=true uses "
                "its schedule all the same"
            )
        if plan.bias is not None:
            raise PlanError(
                "cache.allow_foreign_schedule=true: the plan has a bias, which is made of the "
                "other checkpoint's features"
            )
        done.append(f"schedule of another checkpoint (plan {plan.digest()})")
    if plan.sampler.settings != here.settings:
        mask = _remapped(plan, plan.sampler, here, remap)
        done.append(f"remapped from {plan.sampler} to {here} (plan {plan.digest()})")
    adapted = (*plan.adapted, *done)
    return replace(plan, mask=mask, policy=policy.fingerprint(), sampler=here, adapted=adapted)


def _remapped(plan: CachePlan, there: PlanSampler, here: PlanSampler, allowed: bool) -> np.ndarray:
    """The mask at this sampler's steps; PlanError where that is not allowed, or a forecast."""
    if not allowed:
        raise PlanError(
            f"the plan was made for another sampler ({there}, the policy has {here}): "
            "cache.remap=true moves its update steps to this one's"
        )
    if plan.alpha is not None or plan.bias is not None:
        raise PlanError(
            "cache.remap=true: the plan forecasts, with coefficients for the distances between "
            f"its own steps ({there}, the policy has {here}); make it for this sampler"
        )
    if plan.across is not None:
        raise PlanError(
            "cache.remap=true: the plan takes values of the query before in steps of its own "
            f"({there}, the policy has {here}); make it for this sampler"
        )
    distance = np.abs(np.subtract.outer(there.alpha_bar, here.alpha_bar))
    found = np.zeros((len(here.alpha_bar), plan.mask.shape[1]), dtype=bool)
    np.logical_or.at(found, distance.argmin(axis=1), plan.mask)
    found[0] = True
    return found
