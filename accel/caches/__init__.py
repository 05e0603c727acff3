"""Caching methods: name -> (config dataclass, how to resolve it into a plan, what it needs)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from ..plan import CachePlan
from ..protocol import Accelerable
from .bac import BacConfig, resolve_bac
from .hash_ab import HashAbConfig, resolve_hash_ab
from .none import NoCacheConfig, resolve_none
from .saved import SavedPlanConfig, resolve_saved, saved_identity
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
    "plan": Method(SavedPlanConfig, resolve_saved, identity=saved_identity),
}

__all__ = [
    "CACHES",
    "BacConfig",
    "HashAbConfig",
    "Method",
    "NoCacheConfig",
    "SavedPlanConfig",
    "UniformConfig",
]
