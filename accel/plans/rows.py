"""Plans of whole rows: the same steps for all sites, or for all sites of some blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..protocol import Accelerable
from .plan import CachePlan
from .sites import sites_of


def shared_plan(
    policy: Accelerable, steps: Sequence[int], method: str, always: int = 0
) -> CachePlan:
    """All sites computed on the same update steps, the first `always` of them on every step.

    Of a UNet, the first sites are the shallow levels.
    """
    sites = sites_of(policy)
    mask = np.zeros((policy.n_inference_steps, len(sites)), dtype=bool)
    mask[list(steps)] = True
    mask[:, :always] = True
    return CachePlan(sites, mask, policy.fingerprint(), method)


def last_steps(n_steps: int, cool_down: int | None) -> int:
    """The first of the last steps that are all computed; null is the last tenth."""
    return n_steps - (n_steps // 10 if cool_down is None else cool_down)


def blocks_plan(
    policy: Accelerable, steps: Sequence[int], blocks: Sequence[int], method: str
) -> CachePlan:
    """These blocks computed on the given steps, all others on every step.

    A reused window adds to its fresh input what it added when it was computed, so the plan holds
    the window's delta branch by branch.
    """
    sites, width = sites_of(policy), len(policy.sizes.branches)
    mask = np.ones((policy.n_inference_steps, len(sites)), dtype=bool)
    hits = np.ones(len(mask), dtype=bool)
    hits[list(steps)] = False
    for block in blocks:
        mask[hits, block * width : (block + 1) * width] = False
    return CachePlan(sites, mask, policy.fingerprint(), method)
