"""What a plan spends, in numbers that compare plans of different methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..protocol import Accelerable
from .flops import equivalent_steps, flops_share
from .plan import CachePlan


@dataclass(frozen=True)
class PlanSummary:
    """The cost of a plan for one policy; of one with `across`, that of a full query.

    Attributes:
        updates: {site name: computed steps}.
        mean_updates: over sites.
        flops_share: as `flops_share` counts it, parts that no cache saves included; not a speed-up.
            None where FLOPs are not known.
        equivalent_steps: mean of `updates` weighted by the FLOPs of a site: a plan that computes
            all sites on the same steps costs as much with this many. None likewise.
        noise_gain: largest |alpha|_2 of a hit: how much independent noise on stored values, such as
            that of a quantisation, grows; 1 for reuse.
    """

    updates: dict[str, int]
    mean_updates: float
    flops_share: float | None
    equivalent_steps: float | None
    noise_gain: float


def summarize(plan: CachePlan, policy: Accelerable, of: Accelerable | None = None) -> PlanSummary:
    """The cost of a plan.

    Args:
        plan: made for `policy`.
        policy: with the sampler that runs.
        of: what the share of FLOPs is of: the checkpoint's policy with its own sampler. None where
            that is `policy` itself.
    """
    updates = plan.mask.sum(axis=0)
    gain = 1.0
    if plan.alpha is not None and not plan.mask.all():
        hits = plan.alpha[~plan.mask]
        bands = [hits] if plan.bands is None else [hits, hits + plan.bands.low[~plan.mask]]
        gain = max(float(np.linalg.norm(alpha, axis=-1).max()) for alpha in bands)
    return PlanSummary(
        updates={site.name: int(n) for site, n in zip(plan.sites, updates, strict=True)},
        mean_updates=float(updates.mean()) if updates.size else float(plan.n_steps),
        flops_share=flops_share(policy, plan.mask, of or policy),
        equivalent_steps=equivalent_steps(policy, plan.mask),
        noise_gain=gain,
    )
