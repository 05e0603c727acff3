"""Engines: name -> (config dataclass, class that runs a policy under a plan)."""

from __future__ import annotations

from typing import Any

from ..families import family_of
from .backend import (
    FusedConfig,
    check_plan,
    integers_of,
    kernel_times,
    kernels_of,
    resolve_engine,
)
from .calls import FusedCalls
from .fused import FusedEngine
from .reference import ReferenceConfig, ReferenceEngine

FUSED: dict[str, Any] = {"query": FusedEngine, "call": FusedCalls}  # by a family's `compiled`


def fused_engine(policy: Any, *args: Any, **more: Any) -> Any:
    """The fused engine of a policy's family."""
    return FUSED[family_of(policy).compiled](policy, *args, **more)


ENGINES: dict[str, tuple[type, Any]] = {
    "fused": (FusedConfig, fused_engine),
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
