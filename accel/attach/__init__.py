"""Caches on a model of another library, block by block."""

from __future__ import annotations

from .attach import attach
from .attached import Attached

__all__ = [
    "Attached",
    "attach",
]
