"""What success leaves out: how long an episode took, how smoothly the robot moved, at what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import Event, Motion, Task

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
DIGITS = 6


def path_length(positions: FloatArray) -> float | None:
    """Length of the polygon through (T + 1, n) positions; None where positions have no numbers."""
    if not positions.shape[-1]:
        return None
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=-1).sum())


def mean_squared_jerk(positions: FloatArray, control_hz: float) -> float | None:
    """Mean over time of |third derivative|^2, by third differences of (T + 1, n) positions.

    None where positions have no numbers, or are too few for a third difference.
    """
    if not positions.shape[-1] or len(positions) < 4:
        return None
    jerk = np.diff(positions, n=3, axis=0) * control_hz**3
    return float((jerk**2).sum(axis=-1).mean())


def chunk_jumps(actions: FloatArray, sources: IntArray) -> FloatArray:
    """Distance between the last action of each chunk and the first one of the next.

    Args:
        actions: (T, action_dim) as they were executed.
        sources: (T,) the query that each of them came from.
    """
    boundaries = np.flatnonzero(np.diff(sources))
    return np.asarray(np.linalg.norm(actions[boundaries + 1] - actions[boundaries], axis=-1))


@dataclass
class Gathered:
    """What an episode leaves, from what is asked of the pool and what it answers."""

    actions: list[FloatArray] = field(default_factory=list)
    sources: list[IntArray] = field(default_factory=list)
    motions: list[Motion] = field(default_factory=list)

    def ask(self, executed: FloatArray, sources: IntArray) -> None:
        self.actions.append(executed)
        self.sources.append(sources)

    def answer(self, event: Event) -> None:
        self.motions.append(event.motion)
        if event.kind == "chunk":
            n_done = len(event.rewards)  # an episode may end inside a chunk
            self.actions[-1] = self.actions[-1][:n_done]
            self.sources[-1] = self.sources[-1][:n_done]

    def measured(
        self, task: Task, rewards: FloatArray, info: Mapping[str, Any], success: bool
    ) -> dict[str, Any]:
        """An episode's `embodied` in episodes.jsonl; None for what it has not got.

        time_to_success_s: of the robot's time, until the step that made the episode a success.
        time_to_subtask_s: {each completed subtask: until the step that completed it}.
        path_length_m, mean_squared_jerk_m2_s6: of the end effector; of a flat world without
            metres also path_length_px, mean_squared_jerk_px2_s6, which others have not got.
        joint_path_length_rad, mean_squared_joint_jerk_rad2_s6: of the arm's joints, as one vector.
        mean_chunk_jump, max_chunk_jump: of the executed action, in its units, where one chunk
            ends and the next begins.
        energy_j: sum over actuators and simulator substeps of |force x velocity| x time step; the
            kitchen takes every fourth substep for four, which changes less than 1 %.
        """
        hz, motion = task.control_hz, Motion.concatenate(self.motions)
        jumps = chunk_jumps(np.concatenate(self.actions), np.concatenate(self.sources))
        step = task.success_step(rewards) if success else None
        subtasks = task.subtask_steps(rewards, info)
        return {
            "time_to_success_s": _number(step / hz if step else None),
            "time_to_subtask_s": {name: _number(at / hz) for name, at in subtasks.items()},
            "path_length_m": _number(path_length(motion.effector_m)),
            "joint_path_length_rad": _number(path_length(motion.joint_rad)),
            "mean_squared_jerk_m2_s6": _number(mean_squared_jerk(motion.effector_m, hz)),
            "mean_squared_joint_jerk_rad2_s6": _number(mean_squared_jerk(motion.joint_rad, hz)),
            "mean_chunk_jump": _number(jumps.mean() if len(jumps) else None),
            "max_chunk_jump": _number(jumps.max() if len(jumps) else None),
            "energy_j": _number(motion.energy_j.sum()),
            **_in_pixels(motion.effector_px, hz),
        }


def _in_pixels(positions: FloatArray, hz: float) -> dict[str, float | None]:
    if not positions.shape[-1]:
        return {}
    return {
        "path_length_px": _number(path_length(positions)),
        "mean_squared_jerk_px2_s6": _number(mean_squared_jerk(positions, hz)),
    }


def _number(value: float | None) -> float | None:
    """A few digits are enough; a simulation that broke down has no number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")
