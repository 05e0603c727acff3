"""The cache plan: which branch of which denoising step is computed, and what a hit adds instead."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .protocol import Accelerable


@dataclass(frozen=True)
class Site:
    """A place in the network whose value is added to the residual stream.

    Attributes:
        name: of the layer and the branch.
        op: "sa", "ca" or "ff".
        kind: what is stored; "branch" is the addend itself ("delta" and "output" are whole blocks).
    """

    name: str
    op: str
    kind: str = "branch"


class PlanError(ValueError):
    """The plan does not fit the policy, the sampler or itself."""


def sites_of(policy: Accelerable) -> tuple[Site, ...]:
    """The sites of a policy in the order in which the network runs them."""
    stack = "encoder" if policy.sizes.encoder_only else "decoder"
    return tuple(
        Site(f"{stack}.layers.{layer}.{op}", op)
        for layer in range(policy.sizes.n_layer)
        for op in policy.sizes.branches
    )


@dataclass(frozen=True)
class CachePlan:
    """A filling of the grid of denoising steps x sites.

    Attributes:
        sites: in the order in which the network runs them.
        mask: (N, n_sites) bool; true where the branch is computed and stored, false for a hit.
        policy: fingerprint of the policy (weights and sampler) that the plan was made for.
        method: what made it, for people to read.
        alpha: (N, n_sites, n_slots) float64; a hit adds sum_j alpha[s, u, j] X_j, X_0 the newest
            stored value of the site, X_1 the one before. None is plain reuse, alpha = (1,).
    """

    sites: tuple[Site, ...]
    mask: np.ndarray
    policy: str
    method: str
    alpha: np.ndarray | None = None

    def __post_init__(self) -> None:
        grid = (len(self.mask), len(self.sites))
        if self.mask.dtype != bool or self.mask.shape != grid:
            raise PlanError(
                f"plan.mask must be bool (steps, {len(self.sites)}), "
                f"got {self.mask.dtype} {self.mask.shape}"
            )
        if not self.mask[:1].all():
            site = self.sites[int(np.argmin(self.mask[0]))].name
            raise PlanError(f"plan reuses {site} in step 0, before anything was computed")
        if self.alpha is None:
            return
        if self.alpha.ndim != 3 or self.alpha.shape[:2] != grid or not self.alpha.shape[2]:
            raise PlanError(f"plan.alpha must be {(*grid, 'slots')}, got {self.alpha.shape}")
        hits = self.alpha * ~self.mask[..., None]
        wrong = np.argwhere(~np.isfinite(hits).all(axis=2))
        if len(wrong):
            step, site_index = wrong[0]
            raise PlanError(
                f"plan.alpha of {self.sites[site_index].name} in step {step} is not finite"
            )
        stored = np.cumsum(self.mask, axis=0)[..., None]
        early = np.argwhere((hits != 0) & (np.arange(self.alpha.shape[2]) >= stored))
        if len(early):
            step, site_index, slot = early[0]
            raise PlanError(
                f"plan.alpha of {self.sites[site_index].name} in step {step} uses {slot + 1} "
                f"stored values, there are {stored[step, site_index, 0]}"
            )

    @property
    def n_steps(self) -> int:
        return len(self.mask)

    @property
    def n_slots(self) -> int:
        """Stored values per site that a hit may combine."""
        return 1 if self.alpha is None else int(self.alpha.shape[2])

    def forecast(self, step: int, site: int) -> tuple[tuple[int, float], ...]:
        """What a hit adds: ((anchor step, coefficient), ...), newest first, zeros left out."""
        anchors = np.flatnonzero(self.mask[:step, site])[::-1]
        alpha = (1.0,) if self.alpha is None else self.alpha[step, site]
        return tuple((int(a), float(c)) for a, c in zip(anchors, alpha, strict=False) if c != 0)

    def digest(self) -> str:
        """Hash of what the plan does (not of what made it)."""
        content = hashlib.sha256("\n".join(f"{s.name} {s.kind}" for s in self.sites).encode())
        content.update(repr(self.mask.shape).encode() + np.packbits(self.mask).tobytes())
        if self.alpha is not None:
            hits = self.alpha * ~self.mask[..., None]
            content.update(repr(hits.shape).encode() + hits.astype("<f8").tobytes())
        content.update(self.policy.encode())
        return content.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write JSON, see plan_file.py."""
        from .plan_file import save_plan

        save_plan(self, path)

    @classmethod
    def load(cls, path: str | Path) -> CachePlan:
        """Read what `save` wrote; `check` refuses a policy that it was not made for."""
        from .plan_file import load_plan

        return load_plan(path)

    def check(self, policy: Accelerable) -> None:
        """Refuse a policy that the plan was not made for.

        Raises:
            PlanError: other sites, another number of steps, other weights or another sampler.
        """
        if self.sites != sites_of(policy):
            raise PlanError("the plan was made for another network: their sites differ")
        if self.n_steps != policy.n_inference_steps:
            raise PlanError(
                f"the plan has {self.n_steps} steps, "
                f"the policy's sampler {policy.n_inference_steps}"
            )
        if self.policy != policy.fingerprint():
            raise PlanError(
                "the plan was made for another checkpoint or sampler (fingerprints differ)"
            )


def shared_plan(policy: Accelerable, steps: Sequence[int], method: str) -> CachePlan:
    """All sites computed on the same update steps."""
    sites = sites_of(policy)
    mask = np.zeros((policy.n_inference_steps, len(sites)), dtype=bool)
    mask[list(steps)] = True
    return CachePlan(sites, mask, policy.fingerprint(), method)
