"""The 50 worlds of Meta-World: one Sawyer arm on a table."""

from __future__ import annotations

from .task import MetaworldConfig, MetaworldTask

__all__ = [
    "MetaworldConfig",
    "MetaworldTask",
]
