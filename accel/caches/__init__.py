"""Caching methods: name -> (config dataclass, how to resolve it into a plan)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..plan import CachePlan
from .none import NoCacheConfig, resolve_none
from .uniform import UniformConfig, resolve_uniform


class Method(NamedTuple):
    """A caching method; one that is calibrated is resolved with a calibration as well."""

    config: type
    resolve: Callable[..., CachePlan]
    calibrated: bool = False


CACHES: dict[str, Any] = {
    "none": Method(NoCacheConfig, resolve_none),
    "uniform": Method(UniformConfig, resolve_uniform),
}

__all__ = ["CACHES", "Method", "NoCacheConfig", "UniformConfig"]
