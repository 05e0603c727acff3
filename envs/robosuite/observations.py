"""What robosuite's worlds show: numbers in robomimic's order, and cameras.

Numbers are those of robomimic's low-dimensional data: the objects, then for each arm the position
of its hand (3), its quaternion (4) and its gripper's joints (2). With cameras an observation has no
objects in it, as in robomimic's image data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skipstep.observations import IMAGE, STATE, ObservationSpec

OBJECT = "object"  # robomimic's name for what robosuite calls object-state
SUFFIX = "_image"  # of a camera's picture in robomimic's files, and in policies trained on them


def arm_parts(n_arms: int) -> dict[str, int]:
    """Names and lengths of the arms' numbers, in order.

    Example:
        >>> arm_parts(1)
        {'robot0_eef_pos': 3, 'robot0_eef_quat': 4, 'robot0_gripper_qpos': 2}
    """
    sizes = {"eef_pos": 3, "eef_quat": 4, "gripper_qpos": 2}
    return {f"robot{i}_{name}": size for i in range(n_arms) for name, size in sizes.items()}


def slices(parts: Mapping[str, int]) -> dict[str, slice]:
    """Where each part is in an array that holds all of them."""
    ends = np.cumsum([0, *parts.values()]).tolist()
    return dict(zip(parts, map(slice, ends[:-1], ends[1:]), strict=True))


@dataclass(frozen=True)
class View:
    """An observation with pictures.

    Attributes:
        cameras: the pictures' names, after "image."; with or without "_image".
        image_size: width and height of each, px.
        parts: the arms' numbers are arrays with robomimic's names; else one array, `state`.
        objects: numbers of the objects, which are shown to an expert beside the pictures; 0 to
            policies.
    """

    cameras: tuple[str, ...]
    image_size: int
    parts: bool
    objects: int = 0

    @property
    def filmed(self) -> dict[str, str]:
        """{name of the array: robosuite's camera}."""
        return {IMAGE + name: name.removesuffix(SUFFIX) for name in self.cameras}

    def spec(self, arms: Mapping[str, int], control_hz: float) -> ObservationSpec:
        numbers = dict(arms) if self.parts else {STATE: sum(arms.values())}
        numbers |= {OBJECT: self.objects} if self.objects else {}
        shape = (3, self.image_size, self.image_size)
        return ObservationSpec.of({**numbers, **dict.fromkeys(self.filmed, shape)}, control_hz)
