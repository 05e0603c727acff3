"""A toy world that works as long as nobody films it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from envs.task import Env
from tests.helpers.toy import ToyEnv, ToyTask


def fail() -> None:
    raise RuntimeError("an OpenGL platform library\nhas not been loaded")


def crash() -> None:
    os.abort()


def full() -> None:
    raise OSError(28, "No space left on device")


@dataclass
class Unfilmable(ToyTask):
    """A toy that works as long as nobody looks at it.

    Attributes:
        when: "made", or the frame, from 0 on, that fails.
    """

    when: str | int = "made"
    how: Callable[[], None] = fail

    def make_env(self, render: bool = False) -> Env:
        if render and self.when == "made":
            self.how()
        return _Env(self, render)


class _Env(ToyEnv):
    n_frames = 0

    def render(self) -> Any:
        task: Any = self.task
        if self.n_frames == task.when:
            task.how()
        self.n_frames += 1
        return super().render()
