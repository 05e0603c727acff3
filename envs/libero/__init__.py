"""The tasks of LIBERO (Liu et al. 2023), in robosuite 1.4."""

from __future__ import annotations

from .settings import LiberoConfig
from .task import LiberoTask

__all__ = [
    "LiberoConfig",
    "LiberoTask",
]
