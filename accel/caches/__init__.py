"""Caching methods: name -> (config dataclass, how to resolve it into a plan, what it needs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..plan import CachePlan
from .bac import BacConfig, resolve_bac
from .hash_ab import HashAbConfig, resolve_hash_ab
from .none import NoCacheConfig, resolve_none
from .uniform import UniformConfig, resolve_uniform


class Method(NamedTuple):
    """A caching method.

    config: dataclass with complete defaults and a `name`.
    resolve: (config, policy, calibration or None) -> plan.
    calibrated: whether `resolve` needs the calibration.
    """

    config: type
    resolve: Callable[..., CachePlan]
    calibrated: bool = False


CACHES: dict[str, Method] = {
    "none": Method(NoCacheConfig, resolve_none),
    "uniform": Method(UniformConfig, resolve_uniform),
    "bac": Method(BacConfig, resolve_bac, calibrated=True),
    "hash_ab": Method(HashAbConfig, resolve_hash_ab, calibrated=True),
}

__all__ = [
    "CACHES",
    "BacConfig",
    "HashAbConfig",
    "Method",
    "NoCacheConfig",
    "UniformConfig",
]
