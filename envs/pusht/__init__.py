"""PushT of Diffusion Policy, in gym-pusht."""

from __future__ import annotations

from .task import PushTConfig, PushTTask

__all__ = [
    "PushTConfig",
    "PushTTask",
]
