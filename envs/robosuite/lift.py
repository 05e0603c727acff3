"""Lift: a Panda arm grasps a cube and lifts it 4 cm above the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..task import Expert, TrainingDefaults
from .experts.lift import lift_action
from .made import Made
from .settings import RobosuiteConfig
from .task import RobosuiteTask

N_OBS = 19
CUBE, WAY, HAND = slice(0, 3), slice(7, 10), slice(10, 13)  # in an observation, in metres
SAME_M = 1e-3


@dataclass
class LiftConfig(RobosuiteConfig):
    """Settings of Lift, see `RobosuiteConfig`."""

    name: str = "lift"


class LiftTask(RobosuiteTask):
    """Success is the cube 4 cm above the table."""

    name = "lift"
    config_class = LiftConfig
    made = Made("Lift")
    objects = 10
    instruction = "Lift the cube."
    training = TrainingDefaults(horizon=10)
    expert = Expert(lift_action, n_obs_steps=2, action_dim=7, single=True)

    def contradiction(self, obs: NDArray[Any]) -> str | None:
        return turned_way(obs)


def turned_way(obs: NDArray[Any]) -> str | None:
    """Where 1.4 has the way from cube to hand, robosuite 1.5 has that from hand to cube.

    The numbers tell it of files that cannot say it, such as an npz.
    """
    if obs.shape[1] != N_OBS:
        return None
    way = (obs[:, HAND] - obs[:, CUBE]).astype(np.float64)
    far = np.linalg.norm(way, axis=1) > 10 * SAME_M
    turned = np.linalg.norm(obs[:, WAY] + way, axis=1) < SAME_M
    if not far.any() or turned[far].mean() <= 0.5:
        return None
    return (
        "object 7 to 9 must be the hand's place less the cube's, as robosuite 1.4 has it, "
        "got the opposite, as robosuite from 1.5 on has it"
    )
