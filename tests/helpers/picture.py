"""The toy with pictures: what its worlds show besides numbers is drawn from its state alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from envs import Expert, KitchenConfig
from envs.task import Env
from skipstep.observations import ObservationSpec
from tests.helpers.toy import ToyEnv, ToyTask


@dataclass
class PictureTask(ToyTask):
    """`ToyTask` whose observations are its point and pictures of it.

    Attributes:
        size: height of a picture; it is 4 pixels wider.
        cameras: how many.
        instead: arrays that a world shows in the place of its own, from `instead_from` on; None
            leaves one out.
        instead_from: a step; 0 is the reset.
    """

    name: str = "picture"
    size: int = 12
    cameras: tuple[str, ...] = ("top",)
    instead: dict[str, Any] | None = None
    instead_from: int = 0

    @property
    def obs_spec(self) -> ObservationSpec:
        shape = (3, self.size, self.size + 4)
        pictures = {f"image.{camera}": shape for camera in self.cameras}
        return ObservationSpec.of({"state": self.obs_dim, **pictures}, self.control_hz)

    def make_env(self, render: bool = False) -> Env:
        env: Any = PictureEnv(self, render)
        return env


def steered(seen: Any) -> NDArray[np.float64]:
    """An expert's action by the newest picture's corner and the newest state."""
    return np.array([seen["image.top"][-1, 0, 0, 0] / 255, -seen["state"][-1, 0]])


@dataclass
class PictureConfig(KitchenConfig):
    """Of `PictureRun`, chosen as `task=kitchen task.name=picture`, with the settings of that file.

    Attributes:
        size: of the pictures; None: as the policy sees them, else 12.
    """

    name: str = "picture"
    size: int | None = None


class PictureRun(PictureTask):
    """`PictureTask` for the command line; it is as large as the policy sees it."""

    expert: ClassVar[Expert] = Expert(steered, n_obs_steps=2, action_dim=2)

    def __init__(self, config: PictureConfig) -> None:
        super().__init__(max_steps=config.max_steps, size=config.size or 12)
        self.config = config

    @classmethod
    def fitted(cls, config: PictureConfig, seen: ObservationSpec, said: str) -> PictureConfig:
        height = seen["image.top"].shape[1] if "image.top" in seen else None
        if None not in (config.size, height) and config.size != height:
            raise ValueError(f"task.size={config.size} contradicts the checkpoint, {height}")
        return replace(config, size=height or config.size)


class PictureEnv(ToyEnv):
    """Draws into the same arrays again at each step, as renderers do."""

    def __init__(self, task: PictureTask, render: bool) -> None:
        super().__init__(task, render)
        self.pictures = task
        self.canvas = {
            name: np.zeros(task.obs_spec[name].shape, np.uint8) for name in task.obs_spec.images
        }

    def reset(self, **how: Any) -> Any:
        state, info = super().reset(**how)
        return self._seen(state), info

    def step(self, action: Any) -> Any:
        state, *rest = super().step(action)
        return self._seen(state), *rest

    def _seen(self, state: NDArray[np.float64]) -> dict[str, Any]:
        for camera, canvas in enumerate(self.canvas.values()):
            canvas[...] = picture(state, canvas.shape, camera)
        task = self.pictures
        instead = task.instead or {} if self.n_steps >= task.instead_from else {}
        seen = {"state": state, **self.canvas, **instead}
        return {name: array for name, array in seen.items() if array is not None}


def picture(
    state: NDArray[np.float64], shape: tuple[int, ...], camera: int = 0
) -> NDArray[np.uint8]:
    """(C, H, W): waves that each number of the state moves."""
    channel, row, column = np.indices(shape)
    waves = sum(np.sin(x + i + camera + 0.7 * row + 0.3 * channel) for i, x in enumerate(state))
    return np.asarray(127.5 + 60 * np.tanh(waves * np.cos(0.5 * column + state[0])), np.uint8)
