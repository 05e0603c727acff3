"""Tool Hang: a Panda arm puts a hooked frame into its stand and hangs a tool on it."""

from __future__ import annotations

from dataclasses import dataclass

from .made import Made
from .settings import RobosuiteConfig
from .task import RobosuiteTask


@dataclass
class ToolHangConfig(RobosuiteConfig):
    """Settings of Tool Hang, see `RobosuiteConfig`."""

    name: str = "tool_hang"
    max_steps: int = 700


class ToolHangTask(RobosuiteTask):
    """Success is the frame in its stand and the tool on the frame."""

    name = "tool_hang"
    config_class = ToolHangConfig
    made = Made("ToolHang")
    objects = 44
    usual_cameras = ("sideview", "robot0_eye_in_hand")
    usual_size = 240
    film_camera = "sideview"
    instruction = "Put the frame into its stand and hang the tool on it."
