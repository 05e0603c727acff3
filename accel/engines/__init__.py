"""Engines: name -> (config dataclass, class that runs a policy under a plan)."""

from __future__ import annotations

from typing import Any

from .backend import (
    FusedConfig,
    check_plan,
    integers_of,
    kernel_times,
    kernels_of,
    resolve_engine,
)
from .fused import FusedEngine
from .reference import ReferenceConfig, ReferenceEngine

ENGINES: dict[str, tuple[type, Any]] = {
    "fused": (FusedConfig, FusedEngine),
    "reference": (ReferenceConfig, ReferenceEngine),
}

settled = resolve_engine  # its older name, for scripts that have it

__all__ = [
    "ENGINES",
    "FusedConfig",
    "FusedEngine",
    "ReferenceConfig",
    "ReferenceEngine",
    "check_plan",
    "integers_of",
    "kernel_times",
    "kernels_of",
    "resolve_engine",
    "settled",
]
