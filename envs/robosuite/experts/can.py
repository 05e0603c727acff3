"""The scripted expert of PickPlaceCan."""

from __future__ import annotations

import numpy as np

from ...task import FloatArray

CAN, CAN_QUAT, WAY = slice(0, 3), slice(3, 7), slice(7, 10)  # in an observation; quaternions xyzw
HAND, HAND_QUAT = slice(14, 17), slice(17, 21)

GAIN = 12.0  # of 5 cm, the longest move of a step, per metre
TURN_GAIN = 2.0  # of 0.5 rad, per radian
BIN_M = np.array([0.16, 0.36])  # a place in the can's bin that the arm reaches
BIN_HALF_M = 0.045  # what counts as over the bin
HOVER_M = 0.1  # fingers above the can, and above the walls where it stands in a bin
FLOOR_M = 0.84  # the hand's lowest place
CARRY_M, DROP_M = 1.02, 0.92  # the can's height between the bins and where it is let go
LET_GO_M = 0.95
LEVEL_M = 0.018
CLEAR_M = 0.05  # of height in which a move to the side is eased in
WIDE_M = 0.058  # more than the can, less than the open gripper
STILL_M = 1e-3
LEVER_M = 0.05  # a turn of a lying can's wrist counts as this much per radian


def can_action(history: FloatArray) -> FloatArray:
    """One relative action (7,) from the last two observations (2, 23), the newest last.

    Above the can, down, close, up, over the bin, lower, open. It keeps no memory of an episode:
    the phase shows in the two observations, so after a slip or a push it goes back as far as
    needed, and rows can come in any order. The wrist is kept straight down, turned only for a can
    that lies: the fingers close across it.
    """
    before, now = history
    can, hand, way = now[CAN], now[HAND], now[WAY]
    width, closing = now[21] - now[22], (before[21] - before[22]) - (now[21] - now[22])
    near = float(np.linalg.norm(way[:2])) < 2 * LEVEL_M and abs(way[2]) < 3 * LEVEL_M
    held = near and width < WIDE_M and abs(closing) < STILL_M
    to_bin = BIN_M - can[:2]
    if np.abs(to_bin).max() < BIN_HALF_M and can[2] < LET_GO_M:
        move, grip = np.array([0.0, 0.0, DROP_M - hand[2]]), -1.0
        turn = _turn(now[HAND_QUAT], 0.0)
    elif held:
        turn = _turn(now[HAND_QUAT], 0.0)
        move, grip = _funnel(to_bin, can[2], DROP_M, CARRY_M, 0.0), 1.0
    else:
        turn = _turn(now[HAND_QUAT], _yaw(now[CAN_QUAT], now[HAND_QUAT]))
        low = max(can[2], FLOOR_M)
        askew = LEVER_M * abs(turn[2])
        move = _funnel(can[:2] - hand[:2], hand[2], low, low + HOVER_M, askew)
        grip = 1.0 if near and abs(hand[2] - low) < 1.5 * LEVEL_M else -1.0
    command = np.concatenate([GAIN * move, TURN_GAIN * turn])
    return np.concatenate([np.clip(command, -1.0, 1.0), [grip]])


def _funnel(aside: FloatArray, height: float, low: float, high: float, askew: float) -> FloatArray:
    """The way (3,) to a place `aside` (2,): at the height `high`, and down to `low` above it."""
    error = float(np.linalg.norm(aside)) + askew
    inside = height < low + 4 * LEVEL_M and error < 2 * LEVEL_M
    up = 0.0 if inside else np.clip(error / LEVEL_M - 1.0, 0.0, 1.0)
    free = 1.0 if error < 2 * LEVEL_M else np.clip((height - high) / CLEAR_M + 1.0, 0.0, 1.0)
    return np.append(free * aside, low + up * (high - low) - height)


def _yaw(can: FloatArray, hand: FloatArray) -> float:
    """The turn about the vertical, in radians, that lays the hand along the axis of a lying can."""
    x, y, z, w = can
    along = np.array([2 * (x * z + w * y), 2 * (y * z - w * x)])
    if np.linalg.norm(along) < 0.7:
        return 0.0
    now = 2 * np.arctan2(hand[1], hand[0])
    off = np.arctan2(along[1], along[0]) - now
    return float(now + (off + np.pi / 2) % np.pi - np.pi / 2)


def _turn(hand: FloatArray, yaw: float) -> FloatArray:
    """The rotation (3,) in the world, in radians, that points the hand down with this yaw."""
    goal = np.array([np.cos(yaw / 2), np.sin(yaw / 2), 0.0])
    vector, scalar = hand[3] * goal - np.cross(goal, hand[:3]), goal @ hand[:3]
    turn: FloatArray = 2.0 * np.copysign(1.0, scalar) * vector
    return turn
