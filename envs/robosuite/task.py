"""What the tasks of robosuite share: settings, observations, actions and recorded arguments.

A task of its own is a small file: the numbers of its objects, its world's name, its horizon, and,
where there is one, its expert. The world is in world.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from skipstep.observations import STATE, ObservationSpec

from ..motion import Motion
from ..pictures import check_no_pictures
from ..robomimic_args import ROBOSUITE_TYPE
from ..task import EpisodeScore, FloatArray, Floats, Task, TrainingDefaults
from .actions import N_CHANGE, N_POSE, OSC_POSE, absolute_rows, pose_command
from .arguments import arguments_in, differences, read_arguments, unsure
from .made import Made
from .observations import OBJECT, SUFFIX, View, arm_parts, slices
from .settings import PICTURES, RobosuiteConfig

if TYPE_CHECKING:
    from ..task import Env
    from .world import RobosuiteEnv

MESH_FOLDER = re.compile(r'file="[^"]*/robosuite/')
CAMERAS = ("agentview", "frontview", "birdview", "sideview", "shouldercamera0", "shouldercamera1")
ON_ARM = ("robotview", "eye_in_hand")


class RobosuiteTask(Task):
    """Success is what robosuite calls so, at any step; so is the score of 1.

    Attributes:
        config_class: its settings; their defaults are the task's own.
        made: what robosuite is asked for.
        objects: numbers of the objects in an observation.
        usual_cameras, usual_size: of an observation with pictures, as published data have them.
        film_camera: of films.
        view: of an observation with pictures.
    """

    config_class: ClassVar[type[RobosuiteConfig]]
    made: ClassVar[Made]
    objects: ClassVar[int]
    usual_cameras: ClassVar[tuple[str, ...]] = ("agentview", "robot0_eye_in_hand")
    usual_size: ClassVar[int] = 84
    film_camera: ClassVar[str] = "agentview"
    view: View | None = None
    memory_mb = 750
    requires: tuple[str, ...] = ("robosuite", "mujoco")
    training: ClassVar[TrainingDefaults] = TrainingDefaults(horizon=10, n_steps=8000)

    def __init__(self, config: RobosuiteConfig | None = None) -> None:
        config = config or self.config_class()
        self.max_steps = config.max_steps
        made = self.made
        recorded = read_arguments(config.env_args, made) if config.env_args is not None else {}
        controller = dict(recorded.pop("controller_configs", OSC_POSE))
        self.abs_action = config.abs_action or not controller["control_delta"]
        controller["control_delta"] = not self.abs_action
        self.arguments = {"control_freq": 20, **recorded, "controller_configs": controller}
        self.control_hz = float(self.arguments["control_freq"])
        self.action_dim = made.n_arms * (N_POSE if self.abs_action else N_CHANGE)
        if config.obs == PICTURES:
            self.view = self._view(config)
        else:
            of_pictures = ("cameras", "image_size", "parts")
            check_no_pictures({key: getattr(config, key) for key in of_pictures}, config.obs)

    def _view(self, config: RobosuiteConfig) -> View:
        cameras = tuple(config.cameras or self.usual_cameras)
        on_arms = [f"robot{i}_{name}" for i in range(self.made.n_arms) for name in ON_ARM]
        known = [*CAMERAS, *on_arms]
        for camera in cameras:
            if camera.removesuffix(SUFFIX) not in known:
                raise ValueError(
                    f"task.cameras must be some of {', '.join(known)} for task={self.name}, "
                    f"got {camera!r}"
                )
        return View(cameras, config.image_size or self.usual_size, bool(config.parts))

    @property
    def obs_parts(self) -> Mapping[str, int]:  # type: ignore[override]
        """Of an observation with pictures the objects are no part."""
        arms = arm_parts(self.made.n_arms)
        return arms if self.view else {OBJECT: self.objects, **arms}

    @property
    def obs_dim(self) -> int:  # type: ignore[override]
        """Numbers of an observation."""
        return sum(self.obs_parts.values())

    @property
    def obs_spec(self) -> ObservationSpec:
        """{name: array}; `single` without pictures."""
        if self.view is None:
            return super().obs_spec
        return self.view.spec(self.obs_parts, self.control_hz)

    @classmethod
    def fitted(cls, config: Any, seen: ObservationSpec, said: str) -> Any:
        """Whether a policy sees pictures, which, and how it names the arms' numbers."""
        return config.seeing(seen)

    def for_expert(self) -> Task:
        """With pictures, the objects' numbers beside them, as robomimic's image data have them."""
        if self.view is None or self.expert is None:
            return self
        shown = copy(self)
        shown.view = replace(self.view, objects=self.objects)
        act = partial(act_beside_pictures, self.expert.act, tuple(self.obs_parts))
        shown.expert = replace(self.expert, act=act, single=False)
        return shown

    def make_env(self, render: bool = False) -> Env:
        from .world import RobosuiteEnv  # the workers' gymnasium: a policy needs none

        return RobosuiteEnv(self, render)

    def score(self, rewards: FloatArray, info: Mapping[str, Any]) -> EpisodeScore:
        best = float(np.max(rewards, initial=0.0))
        return EpisodeScore(success=best >= 1.0, score=best)

    def hold(self, action: FloatArray) -> FloatArray:
        """No change of pose, and the gripper as commanded: one that grasps must go on closing."""
        if self.abs_action:
            return action
        held = action.reshape(-1, N_CHANGE).copy()
        held[:, :-1] = 0.0
        return held.reshape(-1)

    def motion(self, env: Env) -> Motion:
        """The end effectors are where they were a substep ago, as in the observation."""
        return cast("RobosuiteEnv", env).motion()

    def state(self, env: Env) -> FloatArray:
        """Time, joint positions and velocities (for Lift 16 and 15), as robosuite flattens them."""
        return np.asarray(cast("RobosuiteEnv", env).sim_env.sim.get_state().flatten(), np.float64)

    def model(self, env: Env) -> str:
        """The XML of this episode's things; robosuite finds its meshes from "robosuite/" on."""
        xml = cast("RobosuiteEnv", env).model_xml()
        return MESH_FOLDER.sub('file="robosuite/', xml)

    def env_args(self) -> dict[str, Any]:
        """As robomimic 0.3 has it: control_delta, of robosuite 1.4, says what actions are."""
        return {
            "env_name": self.made.env_name,
            "env_version": metadata.version("robosuite"),
            "type": ROBOSUITE_TYPE,
            "env_kwargs": {
                **self.made.robot_arguments,
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
        """Absolute poses of robomimic's files, whose hands tell them from changes of pose."""
        if obs.shape[1] not in (0, self.obs_dim):
            return obs, action  # who reads it refuses the length
        places = slices(self.obs_parts)
        hands = [places[f"robot{i}_eef_pos"] for i in range(self.made.n_arms)]
        return absolute_rows(obs, action, hands if obs.shape[1] else (), self.abs_action)

    def info(self) -> dict[str, Any]:
        kind = "image" if self.view else "lowdim"
        return {"name": f"{self.name}_{kind}", "abs_action": self.abs_action}

    @classmethod
    def reference_runner(cls, info: Mapping[str, Any]) -> dict[str, Any] | None:
        if str(info["name"]).endswith("_image"):
            return None
        absolute = "_abs" if info["abs_action"] else ""
        return {
            "_target_": "robomimic_lowdim_runner.RobomimicLowdimRunner",
            "dataset_path": f"data/robomimic/datasets/{cls.name}/ph/low_dim{absolute}.hdf5",
            "obs_keys": [OBJECT, *arm_parts(cls.made.n_arms)],
            "train_start_idx": 0,
            "max_steps": cls.config_class().max_steps,
            "render_hw": [128, 128],
            "fps": 10,
            "crf": 22,
            "n_latency_steps": 0,
            "tqdm_interval_sec": 1.0,
        }

    def check_recorded(self, recorded: Any, path: str, actions: bool = True) -> list[str]:
        """Refuses another robosuite, world, robot or controller; other physics is a warning."""
        made = self.made
        arguments = {} if recorded is None else arguments_in(recorded, "env_args", path, made)
        doubts = [unsure(recorded, path)]
        others = differences(arguments, self.arguments, made.standard) if arguments else []
        if others:
            doubts.append(f"{path} was recorded with {', '.join(others)}: see task.env_args")
        return [doubt for doubt in doubts if doubt]

    def robomimic_actions(self, actions: FloatArray) -> FloatArray:
        """Absolute actions have an axis-angle rotation there: 10 to 7 numbers an arm."""
        return np.array([pose_command(a) for a in actions]) if self.abs_action else actions


def act_beside_pictures(
    act: Callable[[FloatArray], FloatArray], arms: tuple[str, ...], obs: Mapping[str, FloatArray]
) -> FloatArray:
    """What an expert that sees numbers alone does where they are shown beside pictures.

    Args:
        act: of the expert, see `Expert`.
        arms: names of the arms' numbers, where they are no `state`.
        obs: {name: (n_obs_steps, ...)}.
    """
    own = [STATE] if STATE in obs else arms
    return act(np.concatenate([obs[name] for name in (OBJECT, *own)], axis=1))
