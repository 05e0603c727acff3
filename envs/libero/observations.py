"""What LIBERO shows: the hand and the gripper in 8 numbers, and pictures of two cameras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.observations import IMAGE

from ..robosuite.observations import View
from ..task import Floats

PARTS = {"ee_states": 6, "gripper_states": 2}
"""The hand's position (3, m) and axis-angle (3, rad), and the gripper's joints (m), as in LIBERO's
files; LeRobot and openpi put them side by side in this order."""
N_STATE = sum(PARTS.values())
N_WITH_QUATERNION = N_STATE + 1  # of robosuite: position 3, quaternion 4, gripper 2

SCENE, HAND = "agentview", "robot0_eye_in_hand"
CAMERAS = {
    **{"image": SCENE, "image2": HAND, "wrist_image": HAND},  # in LeRobot's datasets, in openpi
    **{"agentview_rgb": SCENE, "eye_in_hand_rgb": HAND},  # in LIBERO's files
    **{SCENE: SCENE, f"{SCENE}_image": SCENE, HAND: HAND, f"{HAND}_image": HAND},  # in robosuite
}
"""{a picture's name, after "image.": the camera}."""
USUAL_CAMERAS = ("image", "image2")
USUAL_SIZE = 256  # in which the demonstrations were rendered anew for openpi and LeRobot


@dataclass(frozen=True)
class LiberoView(View):
    """An observation with pictures, which have one of the names that are in use."""

    @property
    def filmed(self) -> dict[str, str]:
        return {IMAGE + name: CAMERAS[name] for name in self.cameras}


def axis_angle(quaternion: NDArray[Any]) -> NDArray[np.float64]:
    """Quaternions (..., 4), w last -> axis times angle (..., 3), rad, with angles up to 2 pi.

    A hand that points down is turned by about pi. Other conversions take the shorter way round, and
    so jump there to the opposite; policies are trained on this one.

    Example:
        >>> axis_angle(np.array([[0.6, 0.0, 0.0, -0.8], [0.0, 0.0, 0.0, 1.0]])).round(3).tolist()
        [[4.996, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    q = np.asarray(quaternion, np.float64)
    w = np.clip(q[..., 3:], -1.0, 1.0)
    length = np.sqrt(1.0 - w * w)
    turned = length > 0.0
    return np.asarray(q[..., :3] * 2.0 * np.arccos(w) / np.where(turned, length, 1.0) * turned)


def state_rows(obs: Floats) -> Floats:
    """Rows (n, 9) with robosuite's quaternion as (n, 8) with the axis-angle; others stay."""
    if obs.shape[1] != N_WITH_QUATERNION:
        return obs
    position, quaternion, gripper = np.split(obs, (3, 7), axis=1)
    return np.hstack([position, axis_angle(quaternion).astype(np.float32), gripper])
