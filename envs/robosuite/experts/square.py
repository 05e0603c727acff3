"""The scripted expert of NutAssemblySquare."""

from __future__ import annotations

import numpy as np

from ...task import FloatArray

MOVE_M = 0.05  # of a unit of an action
TURN_RAD = 0.5
MOVE_GAIN, TILT_GAIN, TURN_GAIN = 1.0, 0.7, 0.8  # of the way that is left
DAMPING = 0.3  # of the last step, as it goes on
DOWN = np.array([0.0, 0.0, -1.0])

HANDLE_M = np.array([0.054, 0.0, 0.0])  # its middle, in the nut's frame
HOVER_M = 0.06  # above the handle
LEVEL_M, LEVEL_RAD = 0.006, 0.10
BETWEEN_M = np.array([0.022, 0.012, 0.012])  # from the handle's middle, in the nut's frame
OPEN_M = 0.074  # between the fingers
HELD_M = 0.05
STILL_M = 1.5e-3
GRASP_RAD = (-1.5, 2.0)  # yaw of the hand that grasps: the wrist turns by less than 2 pi

PEG_M = np.array([0.23, 0.10])  # its axis; its top is at a height of 0.95 m
PLACE_RAD = -np.pi / 2  # yaw of the hand over the peg: the arm is too short for some others
LIFTED_M = (0.86, 0.92)  # heights of the nut
CARRY_M = 0.98
AROUND_M = 0.95
SEATED_M = 0.865
BOTTOM_M = 0.835
CENTERED_M = 0.004
ASIDE_M = 0.012
SINK = 1.0


def square_action(history: FloatArray) -> FloatArray:
    """One relative action (7,) from the last two observations (2, 23).

    Above the handle, down, close; up, over the peg, down, open, and up. Yaws count from a hand
    with its x along the world's. It keeps no memory of an episode: what phase it is in shows in the
    last two observations, so after a slip or a push it goes back as far as needed, and rows can
    come in any order.
    """
    before, now = history
    nut, nut_axes = now[:3], _rotation(now[3:7])
    hand, hand_axes = now[14:17], _rotation(now[17:21])
    width, closing = now[21] - now[22], (before[21] - before[22]) - (now[21] - now[22])
    handle = nut + nut_axes @ HANDLE_M
    room = BETWEEN_M * (1.0 if width > OPEN_M else 1.5)  # fingers that close go on closing
    between = bool(np.all(np.abs(nut_axes.T @ (hand - handle)) < room))
    yaw = _yaw(hand_axes)
    turn = _half_turn(_yaw(nut_axes) - yaw)  # then the fingers are along the handle's sides
    if np.linalg.norm(nut[:2] - PEG_M) < 2 * ASIDE_M and nut[2] < SEATED_M:
        way, turn, grip = np.array([0.0, 0.0, HOVER_M * (width > HELD_M)]), 0.0, -1.0
    elif between and width < HELD_M and abs(closing) < STILL_M:
        way, turn, grip = _to_peg(nut), PLACE_RAD - (yaw + turn), 1.0
    else:
        turn += np.pi * (int(yaw + turn < GRASP_RAD[0]) - int(yaw + turn > GRASP_RAD[1]))
        way, grip = _to_handle(handle - hand, turn), 1.0 if between else -1.0
    way = way - DAMPING * (hand - before[14:17])
    tilt = np.cross(hand_axes[:, 2], DOWN)
    rotation = TILT_GAIN * tilt - TURN_GAIN * turn * DOWN
    action = np.concatenate([MOVE_GAIN * way / MOVE_M, rotation / TURN_RAD, [grip]])
    bounded: FloatArray = np.clip(action, -1.0, 1.0)
    return bounded


def _to_handle(way: FloatArray, turn: float) -> FloatArray:
    """The hand's way, the higher above the handle the less it is in line."""
    aside, askew = float(np.linalg.norm(way[:2])) - LEVEL_M, abs(turn) - LEVEL_RAD
    height = 4.0 * max(aside, 0.0) + 0.3 * max(askew, 0.0)
    higher: FloatArray = way + np.array([0.0, 0.0, min(height, HOVER_M)])
    return higher


def _to_peg(nut: FloatArray) -> FloatArray:
    """The nut's way: up, aside, and down around the peg."""
    way = PEG_M - nut[:2]
    aside = float(np.linalg.norm(way))
    sink = aside < CENTERED_M or (aside < ASIDE_M and nut[2] < AROUND_M)
    rise = (BOTTOM_M if sink else CARRY_M) - nut[2]
    lifted = np.interp(nut[2], LIFTED_M, (0.0, 1.0))
    return np.append(lifted * way, max(rise, -SINK * MOVE_M / MOVE_GAIN))


def _rotation(quat: FloatArray) -> FloatArray:
    """The matrix (3, 3) of a quaternion xyzw."""
    cross = np.cross(np.eye(3), quat[:3])
    matrix: FloatArray = np.eye(3) + 2.0 * (quat[3] * cross + cross @ cross)
    return matrix


def _yaw(axes: FloatArray) -> float:
    return float(np.arctan2(axes[1, 0], axes[0, 0]))


def _half_turn(angle: float) -> float:
    """The same up to half a turn, between -pi / 2 and pi / 2."""
    return (angle + np.pi / 2) % np.pi - np.pi / 2
