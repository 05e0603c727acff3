"""How robosuite is asked for a world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STANDARD: dict[str, Any] = {  # of robosuite, where a file or a task says nothing
    "control_freq": 20,
    "gripper_types": "default",
    "initialization_noise": "default",
}
TABLE: dict[str, Any] = {
    "table_full_size": [0.8, 0.8, 0.05],
    "table_friction": [1.0, 5e-3, 1e-4],
}


@dataclass(frozen=True)
class Made:
    """What robosuite calls a world, and what of it can be set.

    Attributes:
        env_name: robosuite's name, which robomimic's files have too.
        furniture: arguments of the world's own, with robosuite's defaults.
        n_arms: Pandas in it.
        env_configuration: how several of them stand.
    """

    env_name: str
    furniture: Mapping[str, Any] = field(default_factory=lambda: TABLE)
    n_arms: int = 1
    env_configuration: str | None = None

    @property
    def standard(self) -> dict[str, Any]:
        """Arguments that change what a step does, with robosuite's defaults."""
        return {**STANDARD, **self.furniture}

    @property
    def physics_keys(self) -> set[str]:
        """Names of the arguments that change what a step does."""
        return {"controller_configs", *self.standard}

    @property
    def robots(self) -> str | list[str]:
        """As robomimic's files name them."""
        return "Panda" if self.n_arms == 1 else ["Panda"] * self.n_arms

    @property
    def robot_arguments(self) -> dict[str, Any]:
        """What robosuite is told of the arms."""
        stand = {"env_configuration": self.env_configuration} if self.env_configuration else {}
        return {"robots": self.robots, **stand}
