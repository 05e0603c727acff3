"""An accelerated policy as a robot's program uses it: numpy or torch, one row or a batch."""

from __future__ import annotations

from .live import LivePolicy
from .make import accelerate
from .policy import RobotPolicy

__all__ = ["LivePolicy", "RobotPolicy", "accelerate"]
