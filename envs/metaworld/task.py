"""Meta-World: a Sawyer arm in one of 50 worlds (Yu et al., CoRL 2019), as metaworld 3 has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from skipstep.observations import ObservationSpec

from ..motion import Motion
from ..robomimic_args import parsed
from ..task import EpisodeScore, Expert, FloatArray, Task, TrainingDefaults
from .expert import expert_of
from .names import FAMILY, INSTRUCTIONS, N_ACTION, N_OBS, check_env, env_in

if TYPE_CHECKING:
    from ..task import Env
    from .env import MetaworldEnv

CONTROL_HZ = 80.0
"""Five simulation steps of 2.5 ms."""


@dataclass
class MetaworldConfig:
    """Settings of Meta-World.

    Attributes:
        env: Meta-World's name of the world, such as "push-v3"; None: the one that the checkpoint
            says.
        max_steps: an episode without a success ends here.
    """

    name: str = "metaworld"
    env: str | None = None
    max_steps: int = 500

    def __post_init__(self) -> None:
        if self.env is not None:
            check_env(self.env)
        if self.max_steps < 1:
            raise ValueError(f"task.max_steps must be at least 1, got {self.max_steps}")


class MetaworldTask(Task):
    """Success is what Meta-World calls so, at any step; so is the score of 1."""

    name = "metaworld"
    obs_dim = N_OBS
    action_dim = N_ACTION
    control_hz = CONTROL_HZ
    memory_mb = 250
    requires = ("metaworld", "mujoco")
    training: ClassVar[TrainingDefaults] = TrainingDefaults(n_steps=8000)

    def __init__(self, config: MetaworldConfig | None = None) -> None:
        self.config = config or MetaworldConfig()
        self.world = check_env(self.config.env)
        self.max_steps = self.config.max_steps

    @property
    def instruction(self) -> str:  # type: ignore[override]
        """Of this world."""
        return INSTRUCTIONS[self.world]

    @property
    def expert(self) -> Expert:  # type: ignore[override]
        """Meta-World's script for this world."""
        return expert_of(self.world)

    @classmethod
    def fitted(cls, config: MetaworldConfig, seen: ObservationSpec, said: str) -> MetaworldConfig:
        """The checkpoint's world, where none was asked for."""
        return config if config.env else replace(config, env=env_in(said))

    def other_world(self, said: str) -> str | None:
        """What a checkpoint was trained for, if that is not this world."""
        here = not said.startswith(FAMILY) or said == FAMILY + self.world
        return None if here else said

    def make_env(self, render: bool = False) -> Env:
        from .env import MetaworldEnv  # the workers' gymnasium: a policy needs none

        return MetaworldEnv(self.config, render)

    def score(self, rewards: FloatArray, info: Mapping[str, Any]) -> EpisodeScore:
        best = float(np.max(rewards, initial=0.0))
        details = {"final_shaped_reward": float(info["shaped_reward"])}
        return EpisodeScore(best >= 1.0, best, {**details})

    def hold(self, action: FloatArray) -> FloatArray:
        """No change of position, and the gripper as commanded."""
        held = action.copy()
        held[:3] = 0.0
        return held

    def motion(self, env: Env) -> Motion:
        return cast("MetaworldEnv", env).motion()

    def state(self, env: Env) -> FloatArray:
        """Positions, velocities, the mocap's pose (7), the goal (3), what was drawn (2 to 6)."""
        return cast("MetaworldEnv", env).state()

    def env_args(self) -> dict[str, Any]:
        """Not an environment of robomimic's: the settings are for those who read the file."""
        return {
            "env_name": FAMILY + self.world,
            "env_version": metadata.version("metaworld"),
            "type": 2,
            "env_kwargs": asdict(self.config),
        }

    def info(self) -> dict[str, Any]:
        """The world is a part of the name: "metaworld/push-v3"."""
        return {"name": FAMILY + self.world}

    def check_recorded(self, recorded: Any, path: str, actions: bool = True) -> list[str]:
        """Refuses another world; a file that does not say which may be of this one."""
        if recorded is None:
            return [f"{path} has no env_args: in which world it was recorded is not known"]
        named = parsed(recorded, "env_args", path).get("env_name")
        if named != FAMILY + self.world:
            raise ValueError(f"task.env={self.world} contradicts {path}, recorded in {named!r}")
        return []
