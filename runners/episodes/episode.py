"""One episode: what is gathered while it runs, and what is recorded of it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from envs import Event, Task
from skipstep.observations import Arrays, each, n_rows, stacked, take

from .embodied import Gathered
from .realtime import Timeline
from .trajectory import Recorder, Trajectory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpisodeResult:
    """One episode; `success`, `score` and `details` are None for status "error".

    embodied: time, motion and energy, as `Gathered.measured` says; None for status "error".
    observations: (n, n_obs_steps, obs_dim), what the policy saw in the first queries, in all of
        them unless `evaluate` keeps fewer; or a mapping of such arrays.
    trajectory: step by step, where asked for.
    """

    seed: int
    status: str  # "ok" or "error"
    success: bool | None
    score: float | None
    n_steps: int
    n_queries: int
    seconds: float
    attempts: int
    details: dict[str, Any] | None = None
    embodied: dict[str, Any] | None = None
    error: str | None = None
    video: str | None = None
    observations: Arrays = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    trajectory: Trajectory | None = field(default=None, repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        """What goes to episodes.jsonl."""
        arrays = ("observations", "trajectory")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays}


@dataclass
class Slot:
    """The episode that a worker is running.

    Attributes:
        history: the newest observations of one step.
        observations: of the queries that are kept.
        memory: what the policy keeps from query to query, see `DiffusionPolicy.encode`.
    """

    seed: int
    attempt: int
    started: float
    history: deque[Arrays]
    rewards: list[float] = field(default_factory=list)
    n_queries: int = 0
    observations: list[Arrays] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    gathered: Gathered = field(default_factory=Gathered)
    recorder: Recorder | None = None
    timeline: Timeline | None = None

    def asked(self, query: Arrays, room_for: Callable[[Arrays], float]) -> None:
        """The policy is asked about this; kept where there is room for one more like it."""
        self.n_queries += 1
        if len(self.observations) < room_for(query):
            self.observations.append(each(np.copy, query))


def observe(slot: Slot, event: Event) -> None:
    """Take what a worker says into its episode."""
    if event.no_film:
        log.warning("seed %d has no film: %s", slot.seed, event.no_film)
    if event.kind != "error":
        slot.gathered.answer(event)
        if slot.recorder:
            slot.recorder.answer(event)
    if event.kind == "ready":  # the history before the episode is the reset's observation
        slot.history.extend([take(event.obs, 0)] * (slot.history.maxlen or 1))
    elif event.kind == "chunk":
        slot.history.extend(take(event.obs, step) for step in range(n_rows(event.obs)))
        slot.rewards.extend(event.rewards.tolist())


def result_of(task: Task, slot: Slot, event: Event) -> EpisodeResult:
    """An episode that has ended, scored."""
    rewards = np.array(slot.rewards)
    score = None if event.kind == "error" else task.score(rewards, event.info)
    measured = slot.gathered.measured
    return EpisodeResult(
        seed=slot.seed,
        status="ok" if score else "error",
        success=score.success if score else None,
        score=score.score if score else None,
        n_steps=len(slot.rewards),
        n_queries=slot.n_queries,
        seconds=round(time.perf_counter() - slot.started, 3),
        attempts=slot.attempt,
        details=score.details if score else None,
        embodied=measured(task, rewards, event.info, score.success) if score else None,
        error=event.error,
        video=event.video,
        observations=stacked(slot.observations) if slot.observations else np.empty(0),
        trajectory=slot.recorder.trajectory() if slot.recorder and score else None,
    )
