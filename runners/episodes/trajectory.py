"""An episode step by step, as it is recorded for datasets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs import Event
from skipstep.observation_arrays import arrays_of, obs_in
from skipstep.observations import Arrays, joined
from skipstep.whole_files import replacing

FloatArray = NDArray[np.float64]
PARTS = ("actions", "executed", "rewards", "states")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One episode of T steps.

    Attributes:
        obs: (T + 1, obs_dim), the last one after the last action; or a mapping of such arrays.
        actions: (T, action_dim), the labels: what the expert or the policy said.
        executed: (T, action_dim), what was done: `actions` and the noise.
        rewards: (T,)
        states: (T + 1, n) of the simulator; n = 0 where the task has none to give.
        model: of the simulator, "" where the task has none to give.
    """

    obs: Arrays
    actions: FloatArray
    executed: FloatArray
    rewards: FloatArray
    states: FloatArray
    model: str

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def dones(self) -> FloatArray:
        """(T,) 1 at the last step, whether success or time ended the episode."""
        return np.append(np.zeros(len(self) - 1), 1.0)

    def save(self, path: Path) -> None:
        """Write by rename; the same episode gives the same bytes."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                **arrays_of(self.obs),
                **{name: getattr(self, name) for name in PARTS},
                model=np.asarray(self.model),
            )

    @classmethod
    def load(cls, path: Path) -> Trajectory:
        with np.load(path) as file:
            parts = {name: file[name] for name in PARTS}
            return cls(obs=obs_in(file), model=str(file["model"]), **parts)


@dataclass
class Recorder:
    """Puts an episode together from what is asked and what the pool answers."""

    obs: list[Arrays] = field(default_factory=list)
    actions: list[FloatArray] = field(default_factory=list)
    executed: list[FloatArray] = field(default_factory=list)
    rewards: list[FloatArray] = field(default_factory=list)
    states: list[FloatArray] = field(default_factory=list)
    model: str = ""

    def ask(self, actions: FloatArray, executed: FloatArray) -> None:
        self.actions.append(actions)
        self.executed.append(executed)

    def answer(self, event: Event) -> None:
        self.obs.append(event.obs)
        self.states.append(event.states)
        self.model += event.model
        if event.kind == "chunk":
            n_done = len(event.rewards)  # an episode may end inside a chunk
            self.rewards.append(event.rewards)
            self.actions[-1] = self.actions[-1][:n_done]
            self.executed[-1] = self.executed[-1][:n_done]

    def trajectory(self) -> Trajectory:
        return Trajectory(
            obs=joined(self.obs),
            actions=np.concatenate(self.actions),
            executed=np.concatenate(self.executed),
            rewards=np.concatenate(self.rewards),
            states=np.concatenate(self.states),
            model=self.model,
        )
