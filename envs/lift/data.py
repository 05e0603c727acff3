"""The numbers of Lift: of observations and actions, and of recorded demonstrations.

An observation is that of robomimic's low-dimensional data: object state (10), position of the end
effector (3), its quaternion (4), gripper joints (2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..task import FloatArray, Floats

N_OBS = 19
CUBE, WAY, HAND = slice(0, 3), slice(7, 10), slice(10, 13)  # in an observation, in metres
SAME_M = 1e-3
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
    """
    from scipy.spatial.transform import Rotation  # not at the top: it takes half a second

    first, second = action[3:6], action[6:9]
    x = first / np.linalg.norm(first)
    y = second - (x @ second) * x
    y /= np.linalg.norm(y)
    axis_angle = Rotation.from_matrix(np.stack([x, y, np.cross(x, y)])).as_rotvec()
    return np.concatenate([action[:3], axis_angle, action[9:]])


def lift_absolute(obs: Floats, action: Floats, abs_action: bool) -> tuple[Floats, Floats]:
    """Absolute poses with an axis-angle (7 numbers), as robomimic has them -> with 6D (10).

    Changes of pose have 7 numbers too, and files do not say reliably which they hold (converted
    ones keep the recorded controller's control_delta), so the values decide: a pose to go to is
    near the hand.

    Raises:
        ValueError: `task.abs_action` contradicts the values.
    """
    if action.shape[1] != 7 or obs.shape[1] != N_OBS:
        return obs, action
    away = np.linalg.norm(action[:, :3] - obs[:, HAND], axis=1)
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

    rows = Rotation.from_rotvec(action[:, 3:6]).as_matrix()[:, :2].reshape(-1, 6)
    return obs, np.concatenate([action[:, :3], rows, action[:, 6:]], 1).astype(np.float32)


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
