"""What a task is: the sizes a policy must agree with, how to make its world, how to judge it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstep.observations import STATE, ObservationSpec

from .motion import Motion

FloatArray: TypeAlias = NDArray[np.float64]
Floats: TypeAlias = NDArray[np.float32]  # rows of demonstrations
JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

if TYPE_CHECKING:
    import gymnasium as gym

    Env: TypeAlias = gym.Env[FloatArray, FloatArray]


def __getattr__(name: str) -> Any:
    """`Env`, for whose gymnasium only those wait who make environments."""
    if name != "Env":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import gymnasium as gym

    return gym.Env[FloatArray, FloatArray]


class EnvError(RuntimeError):
    """A task's environment cannot be built at all, so trying again would not help."""


@dataclass(frozen=True)
class EpisodeScore:
    """How one episode went.

    Attributes:
        success: what the task calls a success.
        score: between 0 and 1.
        details: more of the same, as it is written to the episode's record.
    """

    success: bool
    score: float
    details: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingDefaults:
    """What a task's policies are trained with unless told otherwise; see conf/runner/train.yaml."""

    horizon: int = 16
    n_obs_steps: int = 2
    n_action_steps: int = 8
    n_steps: int = 3000
    batch_size: int = 128
    obs_range_eps: float = 1e-4
    action_range_eps: float = 1e-4


@dataclass(frozen=True)
class Expert:
    """A scripted expert: it acts on observations alone, and so fits wherever a policy does.

    Attributes:
        act: the last observations (n_obs_steps, obs_dim), the newest last, or a mapping of such
            arrays -> one action.
        n_obs_steps: how many it looks at.
        action_dim: of its actions; it fits the task where the task's are as long.
        single: it sees one array of numbers, and does not fit where the task shows pictures.
        noise: its episodes are disturbed by up to this unless told otherwise; it recovers.
    """

    act: Callable[[Any], FloatArray]
    n_obs_steps: int
    action_dim: int
    single: bool = False
    noise: float = 0.3


class Task(ABC):
    """A world and its rules. Cheap to build and picklable: worker processes receive a copy.

    Attributes:
        name: the name it is chosen by.
        world: which of its worlds, where it has many.
        obs_dim: length of an observation that is one array, or of the array `state`.
        action_dim: length of an action, as the policy gives it.
        max_steps: the environment truncates an episode here.
        control_hz: environment steps per second of the robot's time.
        memory_mb: what one worker process of this task needs.
        requires: packages that its environment imports.
        install: the command line that brings them.
        obs_parts: names and lengths of an observation's parts, in order, for datasets.
        instruction: what the robot is to do, in words, for datasets.
        training: what its policies are trained with unless told otherwise.
        noise_amplitude: of an observation's numbers, for noise in a training; None: not known.
        expert: who demonstrates it, if anybody does.
        n_start_states: how many there are, where seeds share them; None: one for each seed.
    """

    name: str
    world: str = ""
    obs_dim: int
    action_dim: int
    max_steps: int
    control_hz: float
    memory_mb: int
    requires: tuple[str, ...] = ()
    install: ClassVar[str] = 'pip install "skipstep[sim]"'
    obs_parts: Mapping[str, int] = MappingProxyType({})
    instruction: str = ""
    training: ClassVar[TrainingDefaults] = TrainingDefaults()
    noise_amplitude: ClassVar[Floats | None] = None
    expert: Expert | None = None
    n_start_states: ClassVar[int | None] = None

    @property
    def obs_spec(self) -> ObservationSpec:
        """The arrays of an observation and how often there is one; here a single array, `state`.

        Where a task says more than that, its environments return mappings of these names to arrays,
        images as (C, H, W) uint8.
        """
        return ObservationSpec.of({STATE: self.obs_dim}, self.control_hz)

    @abstractmethod
    def make_env(self, render: bool = False) -> Env:
        """Build the environment; with `render`, its `render()` gives (H, W, 3) uint8 frames."""

    @abstractmethod
    def score(self, rewards: FloatArray, info: Mapping[str, Any]) -> EpisodeScore:
        """Judge an episode by the rewards of all its steps and the info of the last one."""

    def metrics(self, details: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Summarise the `EpisodeScore.details` of many episodes in the task's own terms."""
        return {}

    def hold(self, action: FloatArray) -> FloatArray:
        """The action that keeps the robot where `action` sent it; an absolute target does."""
        return action

    def success_step(self, rewards: FloatArray) -> int | None:
        """The first step, from 1 on, after which the episode was a success, if there is one.

        Here it is the first reward of 1; a task whose success is something else says so.
        """
        reached = np.flatnonzero(rewards >= 1.0)
        return int(reached[0]) + 1 if len(reached) else None

    def subtask_steps(self, rewards: FloatArray, info: Mapping[str, Any]) -> dict[str, int]:
        """{subtask that was completed: the step, from 1 on, that completed it}."""
        return {}

    def motion(self, env: Env) -> Motion:
        """The robot's body now and the energy of the last step; reading it must change nothing."""
        return Motion()

    def state(self, env: Env) -> FloatArray:
        """The simulator's whole state now, as recorded in datasets."""
        return np.empty(0)

    def model(self, env: Env) -> str:
        """The simulator's model of this episode, as recorded in datasets."""
        return ""

    def env_args(self) -> dict[str, Any]:
        """What robomimic needs to make this environment again."""
        return {"env_name": self.name, "type": 2, "env_kwargs": {}}

    def convert(self, obs: Floats, action: Floats) -> tuple[Floats, Floats]:
        """Rows of a dataset as the policy sees and does them.

        Raises:
            ValueError: they contradict the task's settings.
        """
        return obs, action

    def for_expert(self) -> Task:
        """This task as its expert plays it: it may show more than a policy sees, and record it."""
        return self

    def observation_noise(self) -> float:
        """How much of `noise_amplitude` its own observations have, and so a training's."""
        return 0.0

    def info(self) -> dict[str, Any]:
        """What a checkpoint says of its task: its name there, and settings it depends on."""
        return {"name": self.name}

    @classmethod
    def fitted(cls, config: Any, seen: ObservationSpec, said: str) -> Any:
        """The task's config for a policy, made before the task is.

        A task that can show its world in several ways (sizes of images, which arrays) decides here
        what of it the settings leave open. Here nothing is.

        Args:
            config: of the settings that were asked for, and of what the checkpoint says.
            seen: the observations of the policy.
            said: the checkpoint's own name of its task; "" where it has none.

        Returns:
            A config of the same class; the task's `obs_spec` is compared with `seen` afterwards.

        Raises:
            ValueError: a setting that was asked for contradicts the policy, in one line.
        """
        return config

    def other_world(self, said: str) -> str | None:
        """The world of a policy that was trained elsewhere in this task; None: it was here.

        A task of many worlds has their names in that of its checkpoints, and compares them here.

        Args:
            said: the checkpoint's own name of its task.
        """
        return None

    @classmethod
    def reference_runner(cls, info: Mapping[str, Any]) -> dict[str, Any] | None:
        """The environment runner of the reference implementation for a checkpoint with this `info`.

        Its target is named from its package's env_runner on; None: it has no such task.
        """
        return None

    def check_recorded(self, recorded: Any, path: str, actions: bool = True) -> list[str]:
        """Compare what a dataset says of its environment with this task.

        Args:
            recorded: robomimic's env_args, as text or as what it holds; None: the file has a place
                for them, and says nothing.
            path: of the dataset, for messages.
            actions: its actions are used, not only its observations.

        Returns:
            What should be said before the dataset is used, in one sentence each.

        Raises:
            ValueError: it was recorded in another world than this one.
        """
        return []

    def contradiction(self, obs: NDArray[Any]) -> str | None:
        """Why recorded observations (n, obs_dim) cannot be of this world; None: they may be."""
        return None

    def robomimic_actions(self, actions: FloatArray) -> FloatArray:
        """Actions (k, action_dim) as robomimic records them."""
        return actions
