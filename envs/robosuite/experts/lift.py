"""The scripted expert of Lift."""

from __future__ import annotations

import numpy as np

from ...task import FloatArray

GAIN = 12.0  # of 5 cm, the longest move of a step
HOVER_M = 0.06
LEVEL_M = 0.01
LOW_M = 0.03
WIDE_M = 0.06  # more than the cube, less than the open gripper
STILL_M = 1e-3


def lift_action(history: FloatArray) -> FloatArray:
    """One relative action (7,) from the last two observations (2, 19).

    Above the cube, down, close, and up once the fingers stand still. It keeps no memory of an
    episode: what phase it is in shows in the last two observations, so after a slip or a push it
    goes back as far as needed, and rows can come in any order.
    """
    before, now = history
    offset = now[7:10]  # hand minus cube
    width, closing = now[17] - now[18], (before[17] - before[18]) - (now[17] - now[18])
    aside = float(np.linalg.norm(offset[:2]))
    between = aside < 2 * LEVEL_M and abs(offset[2]) < 1.5 * LEVEL_M
    held = between and width < WIDE_M and abs(closing) < STILL_M
    low_enough = aside < LEVEL_M or (aside < 2 * LEVEL_M and offset[2] < LOW_M)
    goal = np.array([0.0, 0.0, 0.0 if low_enough else HOVER_M])
    move = np.array([0.0, 0.0, 1.0]) if held else np.clip(GAIN * (goal - offset), -1.0, 1.0)
    return np.concatenate([move, np.zeros(3), [1.0 if between else -1.0]])
