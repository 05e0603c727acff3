"""Caching methods: name -> (config dataclass, how to resolve it into a plan)."""

from __future__ import annotations

from typing import Any

from .none import NoCacheConfig, resolve_none
from .uniform import UniformConfig, resolve_uniform

CACHES: dict[str, tuple[type, Any]] = {
    "none": (NoCacheConfig, resolve_none),
    "uniform": (UniformConfig, resolve_uniform),
}

__all__ = ["CACHES", "NoCacheConfig", "UniformConfig"]
