"""Lift of robosuite."""

from __future__ import annotations

from .task import LiftConfig, LiftTask

__all__ = [
    "LiftConfig",
    "LiftTask",
]
