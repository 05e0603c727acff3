"""The Franka kitchen of D4RL."""

from __future__ import annotations

from .task import KitchenConfig, KitchenTask

__all__ = [
    "KitchenConfig",
    "KitchenTask",
]
