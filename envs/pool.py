"""One process per environment: seeded resets, chunks of actions, and dead workers replaced.

Simulators with a global random generator are reproducible only with a process of their own, and a
slot that is free takes its next seed at once instead of waiting for the slowest.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from .frames import Frames
from .processes import EXIT_S, calm_forkserver, end, owed, seconds_of_cpu
from .task import EnvError, FloatArray, Task
from .worker import Event, plugins_of, serve

__all__ = ["EnvPool", "Event"]

log = logging.getLogger(__name__)

LEAST_OWED = 0.05  # of the patience: a worker that is owed less is waited for as long


@dataclass
class _Slot:
    process: ForkServerProcess
    conn: Connection
    frames: Frames | None
    state: Literal["not reset", "busy", "running", "done"] = "not reset"
    request: str = ""
    deadline: float = 0.0
    cpu_s: float = 0.0  # of the process when it was asked

    def release(self) -> None:
        if self.frames is not None:
            self.frames.close()


class EnvPool:
    """A context manager holding `n_envs` worker processes, each with one environment of `task`.

    `reset` and `step` ask; `wait` collects what has been answered. A worker that dies, raises or is
    silent for too long gives an "error" event, and its slot has a fresh worker to be reset again.
    Images come by memory that the two share, see `Frames`; everything else by a pipe.

    Args:
        task: pickled and sent to the workers.
        n_envs: how many.
        timeout_s: longest wait for one answer, building the environment included. A worker that
            waits for a busy CPU is waited for until it has had that many seconds of it.
        record: events carry the simulator's states and model.
    """

    def __init__(
        self, task: Task, n_envs: int, timeout_s: float = 120.0, record: bool = False
    ) -> None:
        self.task = task
        self.n_envs = n_envs
        self.timeout_s = timeout_s
        self.record = record
        self._slots: list[_Slot] = []
        self._failed_starts = 0
        try:
            for slot in range(n_envs):
                self._slots.append(self._start(slot))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def reset(self, slot: int, seed: int, video: Path | None = None, who: str = "") -> None:
        """Begin the episode of `seed`; with `video`, film it (`who`: its arm) and write an mp4."""
        self._refuse(slot, "reset", "busy")
        if not self._slots[slot].process.is_alive():
            self._replace(slot)
        self._reserve(slot, 1)
        self._ask(slot, "reset", seed, None if video is None else Path(video).absolute(), who)

    def step(self, slot: int, actions: FloatArray) -> None:
        """Execute `actions` (k, action_dim) in turn, until they or the episode end."""
        self._refuse(slot, "step", "not reset", "busy", "done")
        actions = np.asarray(actions, np.float64)
        if actions.ndim != 2 or not len(actions) or actions.shape[1] != self.task.action_dim:
            raise ValueError(
                f"actions must have shape (k, {self.task.action_dim}), got {actions.shape}"
            )
        self._reserve(slot, len(actions))
        self._ask(slot, "step", actions)

    def wait(self) -> list[Event]:
        """Return the answers that are there, at least one.

        Raises:
            RuntimeError: nothing has been asked.
            EnvError: the environment cannot be built.
        """
        busy = {i: s for i, s in enumerate(self._slots) if s.state == "busy"}
        if not busy:
            raise RuntimeError("nothing to wait for: no slot was asked to reset or step")
        sources: list[Any] = [s.conn for s in busy.values()]
        sources += [s.process.sentinel for s in busy.values()]
        events: list[Event] = []
        while not events:
            patience = min(s.deadline for s in busy.values()) - time.monotonic()
            awake = set(wait(sources, max(0.0, patience)))
            now = time.monotonic()
            for i, s in busy.items():
                if s.conn in awake or s.process.sentinel in awake:
                    events.append(self._receive(i))
                elif now >= s.deadline and not self._waits_for_cpu(s):
                    events.append(self._give_up(i, f"no answer in {self.timeout_s:g} s"))
        return events

    def pids(self) -> list[int]:
        """Return the process ids of the workers, by slot."""
        return [s.process.pid or 0 for s in self._slots]

    def close(self) -> None:
        """End the workers: politely, then by SIGTERM, then by SIGKILL."""
        slots, self._slots = self._slots, []
        for s in slots:
            s.conn.close()
        end([s.process for s in slots])
        for s in slots:
            s.release()

    def _refuse(self, slot: int, verb: str, *states: str) -> None:
        if not self._slots:
            raise RuntimeError(f"cannot {verb} slot {slot}: the pool is closed")
        if self._slots[slot].state in states:
            raise RuntimeError(f"cannot {verb} slot {slot}: it is {self._slots[slot].state}")

    def _reserve(self, slot: int, n_steps: int) -> None:
        frames = self._slots[slot].frames
        if frames is not None:
            frames.reserve(n_steps)

    def _waits_for_cpu(self, s: _Slot) -> bool:
        """Whether a silent worker had less of a busy CPU than its time; it is given that, then."""
        left = owed(s.process.pid or 0, s.cpu_s, self.timeout_s)
        if left:
            s.deadline = time.monotonic() + max(left, LEAST_OWED * self.timeout_s)
        return left > 0

    def _ask(self, slot: int, method: str, *arguments: Any) -> None:
        s = self._slots[slot]
        s.state, s.request, s.deadline = "busy", method, time.monotonic() + self.timeout_s
        s.cpu_s = seconds_of_cpu(s.process.pid or 0)
        # a worker that is dead by now is found by wait()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            s.conn.send((method, arguments))

    def _receive(self, slot: int) -> Event:
        s = self._slots[slot]
        try:
            if not s.conn.poll():
                raise EOFError
            answer: Event | EnvError = s.conn.recv()
        except (EOFError, OSError):
            s.process.join(EXIT_S)
            return self._give_up(slot, f"worker died (exit code {s.process.exitcode})")
        if isinstance(answer, EnvError):
            s.state = "not reset"
            raise answer
        if answer.kind == "error":
            self._replace(slot)
            return answer
        self._failed_starts = 0
        s.state = "done" if answer.done else "running"
        return answer if s.frames is None else replace(answer, obs=s.frames.copies(answer.obs))

    def _give_up(self, slot: int, error: str) -> Event:
        self._failed_starts += self._slots[slot].request == "reset"
        self._replace(slot)
        if self._failed_starts > self.n_envs + 2:
            raise EnvError(f"no worker of task {self.task.name!r} gets to an episode: {error}")
        return Event(slot, "error", error=error)

    def _start(self, slot: int) -> _Slot:
        with calm_forkserver():
            forkserver.ensure_running()
        context = get_context("forkserver")
        ours, theirs = context.Pipe()
        frames = self._frames()
        arguments = (theirs, slot, self.task, self.record, plugins_of(self.task), frames)
        process = context.Process(target=serve, args=arguments, daemon=True)
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Slot(process, ours, frames)

    def _frames(self) -> Frames | None:
        return Frames(self.task.obs_spec) if self.task.obs_spec.images else None

    def _replace(self, slot: int) -> None:
        old = self._slots[slot]
        log.warning("slot %d gets a fresh worker (was process %s)", slot, old.process.pid)
        old.conn.close()
        old.process.kill()
        end([old.process])
        old.release()  # not used again: whoever survives a kill may write there still
        self._slots[slot] = self._start(slot)
