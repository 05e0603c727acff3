"""A task that needs no simulator, and breaks in the ways simulators break, when asked to."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.task import Env, EpisodeScore, FloatArray, Task

FRAME = (48, 64, 3)


def _raise() -> None:
    raise RuntimeError("the toy broke")


def _spin(seconds: float) -> None:
    """As long as it takes to get that much of a CPU."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


FAULTS: dict[str, Callable[[], None]] = {
    "raise": _raise,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "hang": lambda: time.sleep(3600),
    "work": lambda: _spin(1.0),
    "spin": lambda: _spin(3600.0),
}


@dataclass
class ToyTask(Task):
    """Keep a drifting point near zero: success when |x_0| < success_band after a step.

    Attributes:
        max_steps: an episode is truncated here.
        success_band: 0 makes success impossible.
        delay_s: each step sleeps between 0 and this long, differently in every run.
        fault: one of FAULTS, or None.
        fault_seed: the episode it happens in; None is every episode.
        fault_step: the step it happens at; 0 is the reset.
        fault_marker: a path: the fault happens only while this file is missing, and makes it.
        build_fault: one of FAULTS, happening when the environment is made.
    """

    obs_dim: int = 3
    action_dim: int = 2
    max_steps: int = 20
    success_band: float = 0.1
    delay_s: float = 0.0
    fault: str | None = None
    fault_seed: int | None = None
    fault_step: int = 3
    fault_marker: str | None = None
    build_fault: str | None = None
    name: str = "toy"
    control_hz: float = 10.0
    memory_mb: int = 60

    def make_env(self, render: bool = False) -> Env:
        return ToyEnv(self, render)

    def score(self, rewards: FloatArray, info: Mapping[str, Any]) -> EpisodeScore:
        best = float(np.max(rewards, initial=0.0))
        return EpisodeScore(best >= 1.0, best, {"n_visits": info.get("n_visits", 0)})


class ToyEnv(gym.Env[FloatArray, FloatArray]):
    """Nonlinear, so that a small difference in an action grows over an episode."""

    def __init__(self, task: ToyTask, render: bool) -> None:
        if task.build_fault is not None:
            FAULTS[task.build_fault]()
        self.task = task
        self.render_mode = "rgb_array" if render else None
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (task.obs_dim,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (task.action_dim,), np.float64)
        self.mixing = np.random.default_rng(0).normal(size=(task.obs_dim, task.action_dim))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.uniform(-1.0, 1.0, self.task.obs_dim)
        self.n_steps = 0
        self._maybe_break()
        return self.x.copy(), {}

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        self._maybe_break()
        time.sleep(random.uniform(0.0, self.task.delay_s))
        push = 0.1 * np.tanh(self.mixing @ action) + 0.05 * self.rng.normal(size=self.x.shape)
        self.x = self.x + push + 0.05 * np.sin(3.0 * np.roll(self.x, 1))
        success = bool(abs(self.x[0]) < self.task.success_band)
        truncated = self.n_steps >= self.task.max_steps
        return self.x.copy(), float(success), success, truncated, {"n_visits": int(success)}

    def render(self) -> NDArray[np.uint8]:
        frame = np.full(FRAME, 30, np.uint8)
        column = int(np.clip((self.x[0] + 2.0) / 4.0, 0.0, 1.0) * (FRAME[1] - 1))
        frame[:, column] = (255, 80, 0)
        return frame

    def _maybe_break(self) -> None:
        task = self.task
        if task.fault is None or self.n_steps != task.fault_step:
            return
        if task.fault_seed is not None and self.seed != task.fault_seed:
            return
        if task.fault_marker is not None:
            marker = Path(task.fault_marker)
            if marker.exists():
                return
            marker.touch()
        FAULTS[task.fault]()
