"""The numbers of Kitchen: of observations and actions, and of recorded demonstrations."""

from __future__ import annotations

import numpy as np

from ..task import Floats

N_JOINTS = 9
N_POSITIONS = 30
N_GOAL = 30
N_TASKS = 7
N_STATE = 59  # of D4RL: positions (30) and velocities (29)
CONTROL_HZ = 12.5
VELOCITY_SCALE = 2.0

NOISE_AMPLITUDE = np.repeat(
    [0.1, 0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [9, 2, 6, 3, 3, 3, 3, 1]
)


def kitchen_from_state(obs: Floats, action: Floats, abs_action: bool) -> tuple[Floats, Floats]:
    """D4RL's state of 59 numbers -> the policy's 60: positions, no velocities, zeros for the goal.

    Velocity actions become absolute joint targets where the task has those.
    """
    if obs.shape[1] != N_STATE:
        return obs, action
    joints, objects = obs[:, :N_JOINTS], obs[:, 2 * N_JOINTS : 2 * N_JOINTS + 21]
    if abs_action and action.shape[1] == N_JOINTS:
        action = joints + np.float32(VELOCITY_SCALE / CONTROL_HZ) * action
    return np.concatenate([joints, objects, np.zeros((len(obs), N_GOAL), np.float32)], 1), action
