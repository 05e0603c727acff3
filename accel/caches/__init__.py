"""Caching methods: name -> (config dataclass, how to resolve it into a plan, what it needs)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from ..plans.plan import CachePlan
from ..protocol import Accelerable
from .bac import BacConfig, resolve_bac
from .deepcache import DeepCacheConfig, resolve_deepcache
from .hash_ab import HashAbConfig, resolve_hash_ab
from .interval import IntervalConfig, resolve_interval
from .none import NoCacheConfig, resolve_none
from .saved import SavedPlanConfig, resolve_saved, saved_identity
from .taylor import TaylorConfig, resolve_taylor, taylor_identity
from .thresholded import (
    FirstBlockConfig,
    TeaCacheConfig,
    resolve_first_block,
    resolve_teacache,
)
from .uniform import UniformConfig, resolve_uniform


class Method(NamedTuple):
    """A caching method.

    config: dataclass with complete defaults and a `name`.
    resolve: (config, policy, calibration or None) -> plan.
    calibrated: whether `resolve` needs the calibration.
    identity: (config, policy) -> what of the config changes an action, besides the calibration.
    """

    config: type
    resolve: Callable[..., CachePlan]
    calibrated: bool = False
    identity: Callable[[Any, Accelerable], dict[str, Any]] = lambda config, policy: asdict(config)


CACHES: dict[str, Method] = {
    "none": Method(NoCacheConfig, resolve_none),
    "uniform": Method(UniformConfig, resolve_uniform),
    "bac": Method(BacConfig, resolve_bac, calibrated=True),
    "hash_ab": Method(HashAbConfig, resolve_hash_ab, calibrated=True),
    "interval": Method(IntervalConfig, resolve_interval),
    "deepcache": Method(DeepCacheConfig, resolve_deepcache),
    "taylor": Method(TaylorConfig, resolve_taylor, identity=taylor_identity),
    "teacache": Method(TeaCacheConfig, resolve_teacache, calibrated=True),
    "first_block": Method(FirstBlockConfig, resolve_first_block, calibrated=True),
    "plan": Method(SavedPlanConfig, resolve_saved, identity=saved_identity),
}

__all__ = [
    "CACHES",
    "BacConfig",
    "DeepCacheConfig",
    "FirstBlockConfig",
    "HashAbConfig",
    "IntervalConfig",
    "Method",
    "NoCacheConfig",
    "SavedPlanConfig",
    "TaylorConfig",
    "TeaCacheConfig",
    "UniformConfig",
]
