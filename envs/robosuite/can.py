"""Can: a Panda arm puts a can from one bin into its place in the other."""

from __future__ import annotations

from dataclasses import dataclass

from ..task import Expert
from .experts.can import can_action
from .made import Made
from .settings import RobosuiteConfig
from .task import RobosuiteTask

BINS = {"table_full_size": [0.39, 0.49, 0.82], "table_friction": [1.0, 5e-3, 1e-4]}


@dataclass
class CanConfig(RobosuiteConfig):
    """Settings of Can, see `RobosuiteConfig`."""

    name: str = "can"


class CanTask(RobosuiteTask):
    """Success is the can in its quarter of the second bin, and the hand away from it."""

    name = "can"
    config_class = CanConfig
    made = Made("PickPlaceCan", BINS)
    objects = 14
    instruction = "Put the can into its place in the other bin."
    expert = Expert(can_action, n_obs_steps=2, action_dim=7, single=True)
