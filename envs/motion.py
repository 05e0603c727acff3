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
        effector_m: (3,) position of the end effector in the world; empty where there is none.
        joint_rad: (n,) positions of the arm's revolute joints; empty where there are none.
        energy_j: () energy that the actuators moved in the last control step: the sum over all
            actuators and all simulator substeps of |force x velocity| x time step, so braking costs
            as much as pushing; NaN where it is not known. A reset costs 0.
    """

    effector_m: FloatArray = field(default_factory=lambda: np.empty(0))
    joint_rad: FloatArray = field(default_factory=lambda: np.empty(0))
    energy_j: FloatArray = field(default_factory=lambda: np.array(np.nan))

    @classmethod
    def stack(cls, moments: Sequence[Motion]) -> Motion:
        """Put moments in a row."""
        return cls(*(np.stack([getattr(m, f.name) for m in moments]) for f in fields(cls)))

    @classmethod
    def concatenate(cls, rows: Sequence[Motion]) -> Motion:
        """Put rows behind one another."""
        return cls(*(np.concatenate([getattr(r, f.name) for r in rows]) for f in fields(cls)))


class EnergyMeter:
    """Runs substeps of a MuJoCo simulation one by one and adds up the energy of each.

    The physics is that of one `mj_step` over all of them, bit for bit. After a substep MuJoCo's
    actuator forces and velocities are those from which the substep was integrated.
    """

    def __init__(self, model: Any, data: Any, most: int) -> None:
        import mujoco

        self.model, self.data, self.mj_step = model, data, mujoco.mj_step
        self.power = np.empty((most, model.nu))
        self.rows = list(self.power)
        self.energy_j = 0.0

    def run(self, n_substeps: int) -> None:
        """Simulate that many substeps, at most `most`."""
        model, data, step, multiply = self.model, self.data, self.mj_step, np.multiply
        force, velocity = data.actuator_force, data.actuator_velocity
        for row in self.rows[:n_substeps]:
            step(model, data)
            multiply(force, velocity, row)
        work = np.abs(self.power[:n_substeps]).sum()
        self.energy_j += float(work) * model.opt.timestep
