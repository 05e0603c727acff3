"""The places of a network that a cache can fill: its residual branches, or the levels of a UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..families import Site as Site
from ..families import family_of

if TYPE_CHECKING:
    from ..protocol import Accelerable


def sites_of(policy: Accelerable) -> tuple[Site, ...]:
    """The sites of a policy in the order in which the network runs them."""
    return family_of(policy).sites(policy.sizes)


def nested(sites: Sequence[Site]) -> bool:
    """Whether each site is inside of the one before it."""
    return bool(sites) and sites[0].op == "deep"
