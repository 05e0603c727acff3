"""The cache plan: which branch of which denoising step is computed, and what a hit adds instead."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .across import Across, reaches_back, taken_of
from .bands import Bands
from .checks import PlanError as PlanError
from .checks import check_content
from .decisions import Threshold
from .sites import Site, nested, sites_of

if TYPE_CHECKING:
    from ..protocol import Accelerable


@dataclass(frozen=True)
class PlanSampler:
    """The sampler whose steps a plan fills, so that they can be found again in another one.

    Attributes:
        settings: the policy's sampler settings.
        alpha_bar: (N,) of the trajectory that each step sees, from 0 (noise) to 1.
    """

    settings: dict[str, Any]
    alpha_bar: tuple[float, ...]

    @classmethod
    def of(cls, policy: Accelerable) -> PlanSampler:
        return cls(policy.sampler_settings, tuple(float(a) for a in policy.alpha_bar))

    def __str__(self) -> str:
        chosen = self.settings.get("timesteps") or self.settings.get("spacing")
        named = f", {chosen}" if chosen else ""
        return f"{self.settings.get('kind', 'sampler')} with {len(self.alpha_bar)} steps{named}"


@dataclass(frozen=True)
class CachePlan:
    """A filling of the grid of denoising steps x sites.

    Attributes:
        sites: in the order in which the network runs them.
        mask: (N, n_sites) bool; true where a site is computed and stored, false for a hit.
        policy: fingerprint of the policy (weights and sampler) that the plan was made for.
        method: what made it, for people to read.
        alpha: (N, n_sites, n_slots) float64; a hit adds sum_j alpha[s, u, j] X_j, X_0 the newest
            stored value of the site, X_1 the one before. None is plain reuse, alpha = (1,).
        bias: (N, n_sites, live tokens, width) float32 that hits add besides, the same for every
            observation; None is zero. Live tokens are the leading ones on which an executed action
            depends (the time token among them, where it is one).
        sampler: whose steps these are; None where a file of an older version does not say.
        bands: None, or what of it hits add besides, see `Bands`; the reference engine runs them.
        decide: None, or which steps compute the sites from one on, chosen at run time by each row
            of a batch; `mask` is then what is expected, and the other hits reuse.
        across: None, or what of the mask later queries of an episode take from the query before,
            see `Across`; the reference engine runs it.
        adapted: what was done to a plan of another checkpoint or sampler to make this one.
    """

    sites: tuple[Site, ...]
    mask: np.ndarray
    policy: str
    method: str
    alpha: np.ndarray | None = None
    bias: np.ndarray | None = None
    sampler: PlanSampler | None = None
    adapted: tuple[str, ...] = ()
    decide: Threshold | None = None
    bands: Bands | None = None
    across: Across | None = None

    def __post_init__(self) -> None:
        check_content(self)

    @property
    def n_steps(self) -> int:
        return len(self.mask)

    @property
    def n_slots(self) -> int:
        """Stored values per site that a hit may combine."""
        return 1 if self.alpha is None else int(self.alpha.shape[2])

    @property
    def reached(self) -> np.ndarray:
        """(N, n_sites) bool; false inside of a nested site that is a hit."""
        found = np.ones_like(self.mask)
        if nested(self.sites):
            found[:, 1:] = np.logical_and.accumulate(self.mask, axis=1)[:, :-1]
        return found

    def forecast(self, step: int, site: int) -> tuple[tuple[int, float], ...]:
        """What a hit adds: ((anchor step, coefficient), ...), newest first, zeros left out."""
        alpha = (1.0,) if self.alpha is None else self.alpha[step, site]
        anchors = np.flatnonzero(self.mask[:step, site])[::-1]
        return tuple((int(a), float(c)) for a, c in zip(anchors, alpha, strict=False) if c != 0)

    def cells(self, trace: np.ndarray | None) -> np.ndarray:
        """(N, n_sites) what a query computed: the mask, or shares of rows where they decided."""
        if self.decide is None or trace is None:
            return self.mask
        return self.decide.cells(trace, len(self.sites))

    def hit_bias(self) -> np.ndarray | None:
        """`bias` with zeros where every query computes the branch; None if there is none."""
        if self.bias is None:
            return None
        computed = self.mask & ~taken_of(self)
        return np.where(computed[..., None, None], np.float32(0), self.bias)

    def digest(self) -> str:
        """Hash of what the plan does (not of what made it)."""
        content = hashlib.sha256("\n".join(f"{s.name} {s.kind}" for s in self.sites).encode())
        content.update(repr(self.mask.shape).encode() + np.packbits(self.mask).tobytes())
        if self.alpha is not None:
            hits = self.alpha * ~self.mask[..., None]
            content.update(repr(hits.shape).encode() + hits.astype("<f8").tobytes())
        bias = self.hit_bias()
        if bias is not None:
            content.update(repr(bias.shape).encode())
            content.update(np.ascontiguousarray(bias, "<f4").data)
        if self.bands is not None:
            low = self.bands.low * ~self.mask[..., None]
            content.update(repr((self.bands.cutoff, low.shape)).encode())
            content.update(low.astype("<f8").tobytes())
        if self.decide is not None:
            content.update(repr(self.decide).encode())
        if self.across is not None and reaches_back(self):
            weights = self.across.weights
            content.update(repr(("across", self.across.refresh, weights.shape)).encode())
            content.update(weights.astype("<f8").tobytes())
        content.update(self.policy.encode())
        return content.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write JSON, and a bias beside it, see file.py.

        Example:
            >>> from tempfile import TemporaryDirectory
            >>> from accel import UniformConfig, resolve
            >>> from policies import load_policy
            >>> plan = resolve(load_policy("checkpoints/kitchen"), UniformConfig(steps=20))
            >>> with TemporaryDirectory() as folder:
            ...     plan.save(f"{folder}/plan.json")
            ...     again = CachePlan.load(f"{folder}/plan.json")
            >>> again.method, int(again.mask[:, 0].sum())
            ('uniform steps=20 spacing=quadratic', 20)
        """
        from .file import save_plan

        save_plan(self, path)

    @classmethod
    def load(cls, path: str | Path) -> CachePlan:
        """Read what `save` wrote; `check` refuses a policy that it was not made for.

        Example:
            >>> from pathlib import Path
            >>> from tempfile import TemporaryDirectory
            >>> from accel import resolve
            >>> from policies import load_policy
            >>> policy = load_policy("checkpoints/kitchen")
            >>> with TemporaryDirectory() as folder:
            ...     path = Path(folder, "plan.json")
            ...     resolve(policy, None).save(path)
            ...     plan = CachePlan.load(path)
            >>> plan.check(policy)
            >>> plan.mask.all()
            np.True_
        """
        from .file import load_plan

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
        if self.bias is not None:
            wanted = (policy.n_live + policy.sizes.encoder_only, policy.sizes.n_emb)
            if self.bias.shape[2:] != wanted:
                raise PlanError(
                    f"plan.bias must have {wanted[0]} live tokens of width {wanted[1]}, "
                    f"got {self.bias.shape[2:]}"
                )
        if self.policy != policy.fingerprint():
            raise PlanError(
                "the plan was made for another checkpoint or sampler (fingerprints differ)"
            )
