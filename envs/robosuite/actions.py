"""Actions of arms under OSC_POSE: changes of pose, or poses with a rotation in six numbers.

A change of pose is 7 numbers an arm (position 3, axis-angle 3, gripper 1), a pose that a policy
gives is 10 (position 3, rotation 6, gripper 1), and a pose as robomimic records it is 7 again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..task import FloatArray, Floats

N_CHANGE, N_POSE = 7, 10  # numbers of an arm
REACH_M = 0.3  # from the hand to where it is sent; a change of pose lies about a metre from it

OSC_POSE: dict[str, Any] = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping_ratio": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_ratio_limits": [0, 10],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "control_delta": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
}


def pose_command(action: FloatArray) -> FloatArray:
    """Turn (position 3, rotation 6, gripper 1) into (position 3, axis-angle 3, gripper 1).

    The six numbers are the first two rows of a rotation matrix, made orthonormal by Gram-Schmidt
    (Zhou et al. 2019, "On the Continuity of Rotation Representations in Neural Networks").

    Args:
        action: (10,) of one arm, or those of several arms one after the other.
    """
    from scipy.spatial.transform import Rotation  # not at the top: it takes half a second

    def command(arm: FloatArray) -> FloatArray:
        first, second = arm[3:6], arm[6:9]
        x = first / np.linalg.norm(first)
        y = second - (x @ second) * x
        y /= np.linalg.norm(y)
        axis_angle = Rotation.from_matrix(np.stack([x, y, np.cross(x, y)])).as_rotvec()
        return np.concatenate([arm[:3], axis_angle, arm[9:]])

    return np.concatenate([command(arm) for arm in action.reshape(-1, N_POSE)])


def absolute_rows(
    obs: Floats, action: Floats, hands: Sequence[slice], abs_action: bool
) -> tuple[Floats, Floats]:
    """Absolute poses with an axis-angle, as robomimic has them -> with six numbers a rotation.

    Changes of pose are as long, and files do not say reliably which they hold (converted ones keep
    the recorded controller's control_delta), so the values decide: a pose to go to is near the
    hand.

    Args:
        obs: (n, d).
        action: (n, 7) for each arm, side by side; others are left as they are.
        hands: where in an observation each arm's hand is, m; none: the settings are believed.
        abs_action: what the task's actions are.

    Raises:
        ValueError: `abs_action` contradicts the values.
    """
    n_arms = len(hands) or action.shape[1] // N_CHANGE
    if action.shape[1] != N_CHANGE * n_arms or not n_arms:
        return obs, action
    arms = action.reshape(len(action), n_arms, N_CHANGE)
    absolute = abs_action
    if hands:
        there = np.stack([obs[:, hand] for hand in hands], axis=1)
        away = np.linalg.norm(arms[:, :, :3] - there, axis=2)
        absolute = bool(np.quantile(away, 0.9) < REACH_M)
    if absolute != abs_action:
        raise ValueError(
            f"actions look like {'poses' if absolute else 'changes of pose'}, "
            f"task.abs_action={str(abs_action).lower()} needs "
            f"{'changes of pose' if absolute else 'poses'}"
        )
    if not absolute:
        return obs, action
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_rotvec(arms[:, :, 3:6].reshape(-1, 3)).as_matrix()[:, :2]
    rows = turns.reshape(len(action), n_arms, 6)
    poses = np.concatenate([arms[:, :, :3], rows, arms[:, :, 6:]], 2).astype(np.float32)
    return obs, poses.reshape(len(action), n_arms * N_POSE)
