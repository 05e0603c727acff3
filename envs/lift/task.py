"""Lift: a Panda arm grasps a cube and lifts it; the world is in env.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from ..motion import Motion
from ..robomimic_args import (
    ROBOSUITE_TYPE,
    differences,
    lift_arguments,
    read_lift_arguments,
    unsure,
)
from ..task import EpisodeScore, Expert, FloatArray, Floats, Task, TrainingDefaults
from .data import N_OBS, OSC_POSE, lift_absolute, pose_command, turned_way
from .expert import lift_action

if TYPE_CHECKING:
    from ..task import Env
    from .env import LiftEnv

MESH_FOLDER = re.compile(r'file="[^"]*/robosuite/')


@dataclass
class LiftConfig:
    """Settings of Lift.

    Attributes:
        abs_action: actions are poses (position 3, rotation 6, gripper 1), not changes of pose (7).
        max_steps: an episode without success ends here.
        env_args: a robomimic HDF5 whose recorded environment arguments are used; if its controller
            is absolute, so are the actions.
        success: "once": an episode succeeds, and ends, at the first step with the cube lifted.
    """

    name: str = "lift"
    abs_action: bool = False
    max_steps: int = 400
    env_args: str | None = None
    success: str = "once"

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"task.max_steps must be at least 1, got {self.max_steps}")
        if self.success != "once":
            raise ValueError(f"task.success must be 'once' for lift, got {self.success!r}")


class LiftTask(Task):
    """Success is the cube 4 cm above the table at any step; so is the score of 1."""

    name = "lift"
    obs_dim = N_OBS
    memory_mb = 750
    obs_parts: ClassVar[Mapping[str, int]] = {
        "object": 10,
        "robot0_eef_pos": 3,
        "robot0_eef_quat": 4,
        "robot0_gripper_qpos": 2,
    }
    instruction = "Lift the cube."
    requires = ("robosuite", "mujoco")
    training = TrainingDefaults(horizon=10)
    expert = Expert(lift_action, n_obs_steps=2, action_dim=7)

    def __init__(self, config: LiftConfig | None = None) -> None:
        config = config or LiftConfig()
        self.max_steps = config.max_steps
        recorded = read_lift_arguments(config.env_args) if config.env_args is not None else {}
        controller = dict(recorded.pop("controller_configs", OSC_POSE))
        self.abs_action = config.abs_action or not controller["control_delta"]
        controller["control_delta"] = not self.abs_action
        self.arguments = {"control_freq": 20, **recorded, "controller_configs": controller}
        self.control_hz = float(self.arguments["control_freq"])
        self.action_dim = 10 if self.abs_action else 7

    def make_env(self, render: bool = False) -> Env:
        from .env import LiftEnv  # the workers' gymnasium: a policy needs none

        return LiftEnv(self, render)

    def score(self, rewards: FloatArray, info: Mapping[str, Any]) -> EpisodeScore:
        best = float(np.max(rewards, initial=0.0))
        return EpisodeScore(success=best >= 1.0, score=best)

    def hold(self, action: FloatArray) -> FloatArray:
        """No change of pose, and the gripper as commanded: one that grasps must go on closing."""
        if self.abs_action:
            return action
        return np.concatenate([np.zeros(len(action) - 1), action[-1:]])

    def motion(self, env: Env) -> Motion:
        """The end effector is where it was a simulator's substep ago, as in the observation."""
        return cast("LiftEnv", env).motion()

    def state(self, env: Env) -> FloatArray:
        """Time, joint positions (16) and velocities (15), as robosuite flattens them."""
        return np.asarray(cast("LiftEnv", env).sim_env.sim.get_state().flatten(), np.float64)

    def model(self, env: Env) -> str:
        """The XML of this episode's cube; robosuite finds its meshes from "robosuite/" on."""
        xml = cast("LiftEnv", env).model_xml()
        return MESH_FOLDER.sub('file="robosuite/', xml)

    def env_args(self) -> dict[str, Any]:
        """As robomimic 0.3 has it: control_delta, of robosuite 1.4, says what actions are."""
        return {
            "env_name": "Lift",
            "env_version": metadata.version("robosuite"),
            "type": ROBOSUITE_TYPE,
            "env_kwargs": {
                "robots": "Panda",
                "has_renderer": False,
                "has_offscreen_renderer": False,
                "ignore_done": True,
                "use_object_obs": True,
                "use_camera_obs": False,
                "reward_shaping": False,
                **self.arguments,
            },
        }

    def convert(self, obs: Floats, action: Floats) -> tuple[Floats, Floats]:
        return lift_absolute(obs, action, self.abs_action)

    def info(self) -> dict[str, Any]:
        return {"name": "lift_lowdim", "abs_action": self.abs_action}

    @classmethod
    def reference_runner(cls, info: Mapping[str, Any]) -> dict[str, Any]:
        absolute = "_abs" if info["abs_action"] else ""
        return {
            "_target_": "robomimic_lowdim_runner.RobomimicLowdimRunner",
            "dataset_path": f"data/robomimic/datasets/lift/ph/low_dim{absolute}.hdf5",
            "obs_keys": list(cls.obs_parts),
            "train_start_idx": 0,
            "max_steps": 400,
            "render_hw": [128, 128],
            "fps": 10,
            "crf": 22,
            "n_latency_steps": 0,
            "tqdm_interval_sec": 1.0,
        }

    def check_recorded(self, recorded: Any, path: str, actions: bool = True) -> list[str]:
        """Refuses another robosuite, robot or controller; other physics is a warning."""
        arguments = {} if recorded is None else lift_arguments(recorded, "env_args", path)
        doubts = [unsure(recorded, path)]
        others = differences(arguments, self.arguments) if arguments else []
        if others:
            doubts.append(f"{path} was recorded with {', '.join(others)}: see task.env_args")
        return [doubt for doubt in doubts if doubt]

    def contradiction(self, obs: NDArray[Any]) -> str | None:
        return turned_way(obs)

    def robomimic_actions(self, actions: FloatArray) -> FloatArray:
        """Absolute actions have an axis-angle rotation there: (k, 10) to (k, 7)."""
        return np.array([pose_command(a) for a in actions]) if self.abs_action else actions
