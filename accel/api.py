"""The library call: a policy, made cheaper for as long as a context lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from .caches import CACHES, NoCacheConfig
from .calibration import Calibration
from .engines import ENGINES
from .plan import CachePlan, PlanSampler
from .protocol import Accelerable, Noise
from .quant import QUANTIZERS

log = logging.getLogger(__name__)


def _entry(table: Mapping[str, tuple[Any, ...]], config: Any, setting: str) -> Any:
    name: Any = getattr(config, "name", None)
    if name not in table or not isinstance(config, table[name][0]):
        raise TypeError(f"{setting} must be a config of {', '.join(table)} or None, got {config!r}")
    return table[name][1]


def resolve(policy: Accelerable, cache: Any, calibration: Calibration | None = None) -> CachePlan:
    """A cache config, a plan or None -> a plan that was checked against the policy.

    Args:
        policy: the policy that will run under the plan.
        cache: a config instance of `CACHES`, a `CachePlan` made for this policy, or None.
        calibration: of this policy; what methods with `calibrated` in `CACHES` need.

    Raises:
        TypeError: an unknown config. PlanError: a plan or a calibration for another policy, or none
            where one is needed. ValueError: settings that do not fit the policy.
    """
    if isinstance(cache, CachePlan):
        cache.check(policy)
        plan = cache
    else:
        cache = cache or NoCacheConfig()
        plan = _entry(CACHES, cache, "cache")(cache, policy, calibration)
        if plan.mask.all() and not isinstance(cache, NoCacheConfig):
            log.info("cache=%s: every cell is computed, nothing is a hit", cache.name)
    return plan if plan.sampler else replace(plan, sampler=PlanSampler.of(policy))


class AcceleratedPolicy:
    """Acts like the policy it was made from, only cheaper."""

    def __init__(self, policy: Accelerable, plan: CachePlan, engine: Any) -> None:
        self.policy, self.plan = policy, plan
        self.n_obs_steps, self.n_action_steps = policy.n_obs_steps, policy.n_action_steps
        self.obs_dim, self.action_dim = policy.obs_dim, policy.action_dim
        self.n_queries = 0
        self.closed = False
        self._engine: Any = _entry(ENGINES, engine, "engine")(policy, plan, engine)

    def act(self, obs: Tensor, noise: Noise) -> Tensor:
        """(B, n_obs_steps, obs_dim) -> (B, n_action_steps, action_dim); noise as the policy's."""
        if self.closed:
            raise RuntimeError("the context of this accelerated policy has ended")
        if self.policy.n_inference_steps != self.plan.n_steps:
            raise RuntimeError(
                f"the model would be called {self.policy.n_inference_steps} times a query, "
                f"the plan has {self.plan.n_steps} steps: the policy's sampler was changed"
            )
        actions: Tensor = self._engine.act(obs, noise)
        self.n_queries += 1
        return actions

    def stats(self) -> dict[str, Any]:
        """What ran so far.

        Returns:
            computed, hits: (steps, sites) how often each cell was computed and reused, as lists;
                n_queries;
            flops: of one query of one row, int; cache_bytes: held by the last query; kernels:
                {layer: name};
            plan: hash of the plan.
        """
        computed = self._engine.computed
        queries = max(self.n_queries, 1)
        return {
            "n_queries": self.n_queries,
            "computed": computed.tolist(),
            "hits": (self.n_queries - computed).tolist(),
            "flops": self._engine.flops(computed / queries) if self.n_queries else 0,
            "cache_bytes": self._engine.cache_bytes,
            "kernels": self._engine.kernels(),
            "plan": self.plan.digest(),
        }


@contextmanager
def accelerated(
    policy: Accelerable,
    cache: Any = None,
    quant: Any = None,
    engine: Any = "fused",
    calibration: Calibration | None = None,
) -> Iterator[AcceleratedPolicy]:
    """Run a policy with a cache and a quantisation; `policy` itself stays plain all the while.

    Args:
        policy: a `DiffusionPolicy` in eval mode.
        cache: a config instance of `CACHES`, a `CachePlan` made for this policy, or None.
        quant: a config instance of `QUANTIZERS`, or None.
        engine: a name in `ENGINES`, or a config instance of them.
        calibration: of this policy and its sampler, for methods that need one (bac, hash_ab).

    Raises:
        TypeError: an unknown config. ValueError: an unknown engine, a plan or a calibration for
            another policy, or no calibration where one is needed.
    """
    if isinstance(policy, AcceleratedPolicy):
        raise TypeError("the policy is accelerated already: pass the plain one")
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
        engine = ENGINES[engine][0]()
    if quant is not None:
        _entry(QUANTIZERS, quant, "quant")
    if policy.training:
        raise RuntimeError(
            "the policy is in training mode (dropout is on): call policy.eval() first"
        )
    fast = AcceleratedPolicy(policy, resolve(policy, cache, calibration), engine)
    try:
        yield fast
    finally:
        fast.closed = True
