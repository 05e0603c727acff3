"""Caches on a model of another library, block by block."""

from __future__ import annotations

from .attach import Attached, attach

__all__ = [
    "Attached",
    "attach",
]
