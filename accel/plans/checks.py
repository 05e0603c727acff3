"""What a cache plan must be to hold together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .sites import nested

if TYPE_CHECKING:
    from .across import Across
    from .decisions import Threshold
    from .plan import CachePlan


class PlanError(ValueError):
    """The plan does not fit the policy, the sampler or itself."""


def check_content(plan: CachePlan) -> None:
    """Refuse a plan that does not hold together; called where one is made."""
    grid = (len(plan.mask), len(plan.sites))
    if plan.mask.dtype != bool or plan.mask.shape != grid:
        raise PlanError(
            f"plan.mask must be bool (steps, {len(plan.sites)}), "
            f"got {plan.mask.dtype} {plan.mask.shape}"
        )
    if plan.sampler is not None and len(plan.sampler.alpha_bar) != len(plan.mask):
        raise PlanError(
            f"plan.sampler must have alpha_bar of {len(plan.mask)} steps, "
            f"got {len(plan.sampler.alpha_bar)}"
        )
    if not plan.mask[:1].all():
        site = plan.sites[int(np.argmin(plan.mask[0]))].name
        raise PlanError(f"plan reuses {site} in step 0, before anything was computed")
    lost = np.argwhere(plan.mask & ~plan.reached)
    if len(lost):
        step, site_index = lost[0]
        around = plan.sites[int(np.argmin(plan.mask[step]))].name
        raise PlanError(
            f"plan computes {plan.sites[site_index].name} in step {step}, inside of {around}, "
            "which it reuses there"
        )
    if plan.alpha is not None:
        _check_alpha(plan, plan.alpha, "alpha")
    if plan.bands is not None:
        _check_alpha(plan, plan.bands.low, "bands.low")
        if plan.n_slots != plan.bands.low.shape[2] or nested(plan.sites):
            raise PlanError(
                f"plan.bands are of branches or blocks with {plan.n_slots} slots, got "
                f"{plan.sites[0].kind} and {plan.bands.low.shape[2]}"
            )
    if plan.across is not None:
        _check_across(plan, plan.across)
    if plan.bias is not None:
        _check_bias(plan, plan.bias)
    if plan.decide is not None:
        _check_decide(plan, plan.decide)


def _check_decide(plan: CachePlan, decide: Threshold) -> None:
    if plan.alpha is not None or plan.bias is not None or plan.bands is not None:
        raise PlanError("a plan that decides at run time cannot forecast")
    if not 0 <= decide.first < len(plan.sites) or not plan.mask[:, : decide.first].all():
        raise PlanError(
            f"plan.decide.first must be a site from 0 to {len(plan.sites) - 1} with all sites "
            f"before it computed, got {decide.first}"
        )
    beyond = [step for step in decide.always if not 0 <= step < len(plan.mask)]
    if beyond:
        raise PlanError(
            f"plan.decide.always must be steps from 0 to {len(plan.mask) - 1}, got {beyond[0]}"
        )


def _check_across(plan: CachePlan, across: Across) -> None:
    if plan.decide is not None or plan.bands is not None or nested(plan.sites):
        raise PlanError(
            "a plan that takes values of the query before is of branches or blocks, and neither "
            "decides at run time nor has bands"
        )
    if wrong := across.check(plan):
        raise PlanError(f"plan.{wrong}")


def _check_bias(plan: CachePlan, bias: np.ndarray) -> None:
    grid = plan.mask.shape
    if bias.dtype != np.float32 or bias.ndim != 4 or bias.shape[:2] != grid or not bias.size:
        raise PlanError(
            f"plan.bias must be float32 {(*grid, 'tokens', 'width')}, got {bias.dtype} {bias.shape}"
        )
    if any(site.kind != "branch" for site in plan.sites):
        raise PlanError(f"plan.bias is of branches, got {plan.sites[0].name}")
    used = ~plan.mask if plan.across is None else ~plan.mask | plan.across.taken
    wrong = np.argwhere(~np.isfinite(bias).all(axis=(2, 3)) & used)
    if len(wrong):
        step, site = wrong[0]
        raise PlanError(f"plan.bias of {plan.sites[site].name} in step {step} is not finite")


def _check_alpha(plan: CachePlan, alpha: np.ndarray, name: str) -> None:
    grid = plan.mask.shape
    if alpha.ndim != 3 or alpha.shape[:2] != grid or not alpha.shape[2]:
        raise PlanError(f"plan.{name} must be {(*grid, 'slots')}, got {alpha.shape}")
    hits = alpha * ~plan.mask[..., None]
    wrong = np.argwhere(~np.isfinite(hits).all(axis=2))
    if len(wrong):
        step, site_index = wrong[0]
        raise PlanError(
            f"plan.{name} of {plan.sites[site_index].name} in step {step} is not finite"
        )
    stored = np.cumsum(plan.mask, axis=0)[..., None]
    early = np.argwhere((hits != 0) & (np.arange(alpha.shape[2]) >= stored))
    if len(early):
        step, site_index, slot = early[0]
        raise PlanError(
            f"plan.{name} of {plan.sites[site_index].name} in step {step} uses {slot + 1} "
            f"stored values, there are {stored[step, site_index, 0]}"
        )
