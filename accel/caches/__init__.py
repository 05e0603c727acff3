"""Caching methods: name -> (config dataclass, how to resolve it into a plan, what it needs)."""

from __future__ import annotations

from .across import across_identity, settings_of
from .bac import BacConfig, resolve_bac
from .deepcache import DeepCacheConfig, resolve_deepcache
from .hash_ab import HashAbConfig, resolve_hash_ab
from .interval import IntervalConfig, resolve_interval
from .method import Method
from .none import NoCacheConfig, resolve_none
from .saved import SavedPlanConfig, resolve_saved, saved_identity
from .taylor import TaylorConfig, resolve_taylor, taylor_identity
from .thresholded import (
    FirstBlockConfig,
    TeaCacheConfig,
    first_block_of_blocks,
    resolve_first_block,
    resolve_teacache,
)
from .uniform import UniformConfig, resolve_uniform

SCHEDULED = ("similarity", "spread", "volatility", "stream", "sensitivity")

CACHES: dict[str, Method] = {
    "none": Method(NoCacheConfig, resolve_none, blocks=resolve_none),
    "uniform": Method(
        UniformConfig, resolve_uniform, identity=across_identity, blocks=resolve_uniform
    ),
    "bac": Method(BacConfig, resolve_bac, SCHEDULED),
    "hash_ab": Method(
        HashAbConfig, resolve_hash_ab, (*SCHEDULED, "gram", "mean"), identity=across_identity
    ),
    "interval": Method(IntervalConfig, resolve_interval, blocks=resolve_interval),
    "deepcache": Method(DeepCacheConfig, resolve_deepcache, blocks=resolve_deepcache),
    "taylor": Method(TaylorConfig, resolve_taylor, identity=taylor_identity, blocks=resolve_taylor),
    "teacache": Method(
        TeaCacheConfig,
        resolve_teacache,
        ("probe", "response"),
        blocks=resolve_teacache,
        decides=True,
    ),
    "first_block": Method(
        FirstBlockConfig,
        resolve_first_block,
        ("depth_change",),
        blocks=first_block_of_blocks,
        decides=True,
    ),
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
    "settings_of",
]
