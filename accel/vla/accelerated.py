"""A live vision-language-action policy whose action expert is cached: on, off, and what it did."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from torch import Tensor

from ..caches import CACHES, NoCacheConfig
from ..calibration import Calibration
from ..engines.sessions import bias_of
from ..plans.plan import CachePlan, PlanError
from ..protocol import StepBranch
from .clock import Clock
from .prefix import PrefixConfig, Prefixes
from .session import VlaSession
from .structure import Vla, find_vla
from .view import View
from .walk import Walk

log = logging.getLogger(__name__)

OFFERED = ("none", "uniform", "bac", "hash_ab", "interval", "deepcache", "taylor")


def accelerate_vla(
    policy: Any,
    cache: Any = None,
    calibration: Calibration | None = None,
    prefix: PrefixConfig | None = None,
    n_steps: int | None = None,
) -> AcceleratedVla:
    """Cache what the layers of a live policy's action expert add, between its Euler steps.

    The policy is used as before (`select_action`, `predict_action_chunk`, `sample_actions`), and is
    as it was, to the bit, after `disable()`, after the `with` block, and after any error.

    Args:
        policy: SmolVLA, pi0 or pi0.5 of LeRobot, openpi's PI0Pytorch, or built like these: its
            core has sample_actions, denoise_step and embed_prefix, its expert's layers have
            self_attn.q_proj, k_proj, v_proj, o_proj and mlp.
        cache: a config of none, uniform, bac, hash_ab, interval, deepcache or taylor, or a plan of
            this policy; None computes everything.
        calibration: for bac and hash_ab, see `calibrate_vla`.
        prefix: whether prefixes are used across queries; None: each query makes its own.
        n_steps: Euler steps of a query; None: as its config says.

    Returns:
        The acceleration, enabled.

    Raises:
        TypeError: another structure, or a cache that is not offered.
        ValueError: a plan or calibration that does not fit.
        RuntimeError: the policy is compiled, or accelerated already.

    Lines to type are in docs/how-to/smolvla.md and pi0.md.
    """
    vla = find_vla(policy, n_steps)
    return AcceleratedVla(vla, cache, calibration, prefix).enable()


def plan_of(view: View, cache: Any, calibration: Calibration | None) -> CachePlan:
    """A config of a cache that is offered for VLAs, or a plan, checked.

    Raises:
        TypeError: another config. PlanError: it does not fit.
    """
    policy: Any = view
    if isinstance(cache, CachePlan):
        cache.check(policy)
        if cache.decide is not None:
            raise PlanError(
                "the plan decides at run time, which is not offered for VLAs: freeze it"
            )
        return cache
    config = NoCacheConfig() if cache is None else cache
    name = getattr(config, "name", None)
    if name not in OFFERED or not isinstance(config, CACHES[name].config):
        raise TypeError(
            f"cache must be a config of {', '.join(OFFERED)} or a plan for a VLA, got {config!r}"
        )
    return CACHES[name].plan(config, policy, calibration)


class AcceleratedVla:
    """A live policy under a plan; `accelerate_vla` makes one."""

    def __init__(
        self,
        vla: Vla,
        cache: Any,
        calibration: Calibration | None,
        prefix: PrefixConfig | None,
    ) -> None:
        self.vla, self.calibration = vla, calibration
        self.view = View(vla, n_tokens=_tokens(cache, calibration))
        self.clock = Clock(self.view.device)
        self.prefixes = None if prefix is None else Prefixes(vla, prefix)
        self._walk = Walk(vla, tuple(site.name for site in self.view.sites), self)
        self._session: VlaSession | None = None
        self._use(plan_of(self.view, cache, calibration))

    # --- verbs

    def enable(self) -> AcceleratedVla:
        """Put it on the policy.

        Raises:
            RuntimeError: it is on, or the policy is compiled or accelerated by another tool.
        """
        self._walk.put()
        if self.prefixes is not None:
            self.prefixes.put()
        return self

    def disable(self) -> None:
        """Take it off; the policy is as it was. Does nothing where it is off."""
        if self.prefixes is not None:
            self.prefixes.take()
        self._walk.take()
        self._session = None

    @property
    def enabled(self) -> bool:
        """Whether it is on."""
        return self._walk.on

    def __enter__(self) -> AcceleratedVla:
        return self if self.enabled else self.enable()

    def __exit__(self, *error: Any) -> None:
        self.disable()

    def update_config(self, cache: Any, calibration: Calibration | None = None) -> None:
        """Another cache from the next query on; the statistics are zero.

        Raises:
            TypeError, ValueError: it does not fit; the old one stays.
        """
        calibration = calibration or self.calibration
        view = View(self.vla, n_tokens=_tokens(cache, calibration))
        plan = plan_of(view, cache, calibration)
        self.calibration, self.view = calibration, view
        self._use(plan)

    def stats(self) -> dict[str, Any]:
        """What ran since the cache was chosen.

        Returns:
            queries; prefix_ms and denoise_ms, {last, median}; computed_share, of the cells (step x
            attention or mlp of a layer) that ran; planned_share; projections_saved, keys and
            values of a prefix that an earlier step of the query had; prefixes_made,
            prefixes_reused and prefixes_stale (reused for another observation); cache_bytes, the
            most that a query held; method and plan.
        """
        ran = self.computed.sum()
        prefixes = self.prefixes
        return {
            "method": self.plan.method,
            "plan": self.plan.digest(),
            "enabled": self.enabled,
            "queries": self.queries,
            **self.clock.stats(),
            "computed_share": float(ran / (self.queries * self.computed.size)) if ran else 1.0,
            "planned_share": float(self.plan.mask.mean()),
            "projections_saved": self.saved,
            "prefixes_made": self.queries if prefixes is None else prefixes.made,
            "prefixes_reused": 0 if prefixes is None else prefixes.reused,
            "prefixes_stale": 0 if prefixes is None else prefixes.stale,
            "cache_bytes": self.cache_bytes,
        }

    def _use(self, plan: CachePlan) -> None:
        self.plan = plan
        self._bias: Tensor | None = bias_of(plan, self.view.device)
        self.computed = np.zeros(plan.mask.shape, dtype=np.int64)
        self.queries = self.saved = self.cache_bytes = 0
        self.clock.clear()

    # --- called around the sites, see `walk.Listener`

    def begin(self, args: Any, kwargs: Any) -> StepBranch:
        """A query begins."""
        if _real_time(self.vla) and not self.plan.mask.all():
            raise RuntimeError(
                "rtc_config is enabled: real-time chunking differentiates through the denoiser, "
                "where a cached layer has no gradient; turn it off, or use cache=none"
            )
        self.clock.begin()
        if self.prefixes is not None:
            self.prefixes.begin()
        self._session = VlaSession(self.plan, self._bias)
        return self._session

    def skips(self, step: int, site: int) -> bool:
        """Whether a cell is a hit."""
        return not self.plan.mask[step, site]

    def denoises(self) -> None:
        """The first step begins: the prefix is there."""
        self.clock.mark()

    def end(self) -> None:
        """A query has ended."""
        self.clock.end()
        if self.prefixes is not None:
            self.prefixes.end()
        assert self._session is not None
        self.computed += self._session.computed
        self.queries += 1
        projections = self._walk.projections
        self.saved += sum(once.saved for once in projections)
        for once in projections:
            once.saved = 0
        held = self._session.nbytes + sum(once.nbytes for once in projections)
        self.cache_bytes = max(self.cache_bytes, held)
        self._session = None

    def failed(self) -> None:
        """A query raised: everything is taken off."""
        self.disable()
        log.warning(
            "a query of the accelerated policy raised an error: the acceleration was taken off, "
            "enable() puts it on again"
        )


def _tokens(cache: Any, calibration: Calibration | None) -> int | None:
    """Of the expert's stream, where something knows them."""
    if isinstance(cache, CachePlan) and cache.bias is not None:
        return int(cache.bias.shape[2])
    return None if calibration is None else calibration.extent.n_tokens


def _real_time(vla: Vla) -> bool:
    asked = getattr(vla.core, "_rtc_enabled", None)
    return bool(callable(asked) and asked())
