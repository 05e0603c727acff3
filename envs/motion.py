"""What the robot's body does: where it is after each control step, and the energy it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Motion:
    """The simulator's true state at one moment, or, with one more axis in front, at many.

    Attributes:
        effector_m: (3,) position of the end effector in the world, of two arms (6,); empty where
            there is none.
        joint_rad: (n,) positions of the arm's revolute joints; empty where there are none.
        energy_j: () energy that the actuators moved in the last control step: the sum over all
            actuators and moments of |force x velocity| x time step, so braking costs as much as
            pushing; NaN where it is not known. A reset costs 0.
        effector_px: (2,) position of what acts in a flat world that has no metres; else empty.
    """

    effector_m: FloatArray = field(default_factory=lambda: np.empty(0))
    joint_rad: FloatArray = field(default_factory=lambda: np.empty(0))
    energy_j: FloatArray = field(default_factory=lambda: np.array(np.nan))
    effector_px: FloatArray = field(default_factory=lambda: np.empty(0))

    @classmethod
    def stack(cls, moments: Sequence[Motion]) -> Motion:
        """Put moments in a row."""
        return cls(*(np.stack([getattr(m, f.name) for m in moments]) for f in fields(cls)))

    @classmethod
    def concatenate(cls, rows: Sequence[Motion]) -> Motion:
        """Put rows behind one another."""
        return cls(*(np.concatenate([getattr(r, f.name) for r in rows]) for f in fields(cls)))


class EnergyMeter:
    """Adds up |force x velocity| x time step over the actuators of a MuJoCo simulation.

    After an `mj_step` MuJoCo's actuator forces and velocities are those of the moment at which its
    last substep began. Reading them changes nothing.

    Args:
        model, data: MuJoCo's own.
        n_samples: in a control step.
        sample_s: the time that a sample stands for.
    """

    def __init__(self, model: Any, data: Any, n_samples: int, sample_s: float) -> None:
        self.force, self.velocity = data.actuator_force, data.actuator_velocity  # views
        self.power_w = np.zeros((n_samples, model.nu))
        self.sample_s = sample_s
        self.begin()

    def begin(self) -> None:
        """A control step begins, or an episode."""
        self.power_w[:] = 0.0
        self.rows = iter(self.power_w)

    def sample(self) -> None:
        np.multiply(self.force, self.velocity, next(self.rows))

    def energy_j(self) -> FloatArray:
        """Of the control step, or of as much of it as was sampled."""
        return np.asarray(np.abs(self.power_w).sum() * self.sample_s)
