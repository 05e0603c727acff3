"""Tasks of robosuite, as robomimic's datasets and diffusion_policy's papers have them."""

from __future__ import annotations

from .can import CanConfig, CanTask
from .lift import LiftConfig, LiftTask
from .square import SquareConfig, SquareTask
from .tool_hang import ToolHangConfig, ToolHangTask
from .transport import TransportConfig, TransportTask

__all__ = [
    "CanConfig",
    "CanTask",
    "LiftConfig",
    "LiftTask",
    "SquareConfig",
    "SquareTask",
    "ToolHangConfig",
    "ToolHangTask",
    "TransportConfig",
    "TransportTask",
]
