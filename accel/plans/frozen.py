"""What a plan decided at run time, as a static plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .plan import CachePlan


def freeze(plan: CachePlan, traces: np.ndarray) -> CachePlan:
    """A step is computed where most queries computed it.

    Args:
        plan: one that decides.
        traces: (queries, N) bool, as engines record them.
    """
    assert plan.decide is not None, "the plan decides nothing"
    if traces.shape[1:] != (plan.n_steps,):
        raise ValueError(f"traces must be (queries, {plan.n_steps}), got {traces.shape}")
    mask = plan.mask.copy()
    mask[:, plan.decide.first :] = (2 * traces.mean(axis=0) >= 1)[:, None]
    mask[list(plan.decide.always)] = True
    return replace(plan, mask=mask, decide=None, method=f"{plan.method}, frozen")
