"""The cache plan: which branch of which denoising step is computed, and which is reused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .protocol import Accelerable


@dataclass(frozen=True)
class Site:
    """A residual branch of the network: everything that adds to the stream is one."""

    name: str
    kind: str  # "sa", "ca" or "ff"


class PlanError(ValueError):
    """The plan does not fit the policy, the sampler or itself."""


def sites_of(policy: Accelerable) -> tuple[Site, ...]:
    """The sites of a policy in the order in which the network runs them."""
    stack = "encoder" if policy.sizes.encoder_only else "decoder"
    return tuple(
        Site(f"{stack}.layers.{layer}.{kind}", kind)
        for layer in range(policy.sizes.n_layer)
        for kind in policy.sizes.branches
    )


@dataclass(frozen=True)
class CachePlan:
    """A filling of the grid of denoising steps x sites.

    Attributes:
        sites: in the order in which the network runs them.
        mask: (N, n_sites) bool; true where the branch is computed, false where its last computed
            value is reused.
        policy: fingerprint of the policy (weights and sampler) that the plan was made for.
        method: what made it, for people to read.
    """

    sites: tuple[Site, ...]
    mask: np.ndarray
    policy: str
    method: str

    def __post_init__(self) -> None:
        if self.mask.dtype != bool or self.mask.ndim != 2 or self.mask.shape[1] != len(self.sites):
            raise PlanError(
                f"plan.mask must be bool (steps, {len(self.sites)}), "
                f"got {self.mask.dtype} {self.mask.shape}"
            )
        if not self.mask[:1].all():
            site = self.sites[int(np.argmin(self.mask[0]))].name
            raise PlanError(f"plan reuses {site} in step 0, before anything was computed")

    @property
    def n_steps(self) -> int:
        return len(self.mask)

    def digest(self) -> str:
        """Hash of what the plan does (not of what made it)."""
        names = "\n".join(site.name for site in self.sites)
        content = names.encode() + bytes(self.mask.shape) + np.packbits(self.mask).tobytes()
        return hashlib.sha256(content + self.policy.encode()).hexdigest()[:16]

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
