"""Square: a Panda arm puts a square nut onto the square peg."""

from __future__ import annotations

from dataclasses import dataclass

from ..task import Expert
from .experts.square import square_action
from .made import Made
from .settings import RobosuiteConfig
from .task import RobosuiteTask


@dataclass
class SquareConfig(RobosuiteConfig):
    """Settings of Square, see `RobosuiteConfig`."""

    name: str = "square"


class SquareTask(RobosuiteTask):
    """Success is the nut on its peg, and the hand away from it."""

    name = "square"
    config_class = SquareConfig
    made = Made("NutAssemblySquare")
    objects = 14
    instruction = "Put the square nut onto the square peg."
    expert = Expert(square_action, n_obs_steps=2, action_dim=7, single=True, noise=0.15)
