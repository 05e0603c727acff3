"""What runs in a worker process: one environment, reset and stepped on request."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from multiprocessing import forkserver, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skipstep.observations import Arrays

from .film import Film
from .frames import Frames, Seen
from .motion import Motion
from .task import EnvError, FloatArray, Task
from .video import load_av, rendering_words, turn_off_what_cannot_be_loaded

if TYPE_CHECKING:
    from .task import Env

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "OPENCV_FOR_THREADS_NUM",
    ),
    "1",
)

PR_SET_PDEATHSIG = 1  # of prctl

PLUGINS: list[str] = []  # modules of others that tasks came from, as far as this process knows

WAITING = "OMP_WAIT_POLICY"  # of OpenMP's threads, for libraries that have their own


@dataclass(frozen=True, eq=False)
class Event:
    """The answer to one request of a slot.

    Attributes:
        slot: which environment.
        kind: "ready" after a reset, "chunk" after a step, "error" if there is no answer.
        obs: (k, obs_dim) float64, the observation of the reset (k = 1), or one per executed step;
            where an observation is several arrays, a mapping of their names to (k, ...), images
            uint8, numbers float64.
        rewards: (k,) one per executed step; empty after a reset.
        done: the episode is over, by termination or truncation.
        info: that of the reset or of the last step.
        motion: of the reset or of each executed step, k moments in a row.
        states: (k, n) the simulator's state with each observation, if the pool records.
        model: the simulator's model, after a reset, if the pool records.
        error: the worker's traceback, or how it ended.
        video: the file written, when the episode is over and a video was asked for.
        no_film: why there will be none, once, where a video was asked for.
    """

    slot: int
    kind: Literal["ready", "chunk", "error"]
    obs: Arrays = field(default_factory=lambda: np.empty((0, 0)))
    rewards: FloatArray = field(default_factory=lambda: np.empty(0))
    done: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    motion: Motion = field(default_factory=Motion)
    states: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    model: str = ""
    error: str | None = None
    video: str | None = None
    no_film: str = ""


class Host:
    """Holds a slot's environment: the plain one, or the rendering one while a video is made."""

    def __init__(
        self, slot: int, task: Task, record: bool = False, frames: Frames | None = None
    ) -> None:
        self.slot = slot
        self.task = task
        self.record = record
        self.spec, self.images = task.obs_spec, frames
        self.env: Env | None = None
        self.rendering = False
        self.film: Film | None = None

    def reset(self, seed: int, video: Path | None, who: str = "") -> Event:
        """Begin an episode; where it cannot be filmed, it begins without a film."""
        no_film = ""
        if video is not None:
            try:
                with warnings.catch_warnings(action="ignore"):  # glfw's, before it fails
                    return self._begun(seed, Film(video, self.task, seed, who))
            except Exception as error:
                sys.unraisablehook = lambda _: None  # of renderers that were half made
                no_film = str(error) if isinstance(error, EnvError) else rendering_words(error)
                with contextlib.suppress(Exception):  # of what failed already
                    self.close()
        return replace(self._begun(seed, None), no_film=no_film)

    def _begun(self, seed: int, film: Film | None) -> Event:
        env = self._env_for(rendering=film is not None)
        self.film = film
        obs, info = env.reset(seed=seed)
        if film:
            film.add(env.render(), info)
        motion = Motion.stack([self.task.motion(env)])
        seen = Seen(self.spec, 1, self.images)
        seen.add(self._checked(obs))
        event = Event(self.slot, "ready", seen.whole(), info=info, motion=motion)
        if not self.record:
            return event
        return replace(event, states=self.task.state(env)[None], model=self.task.model(env))

    def step(self, actions: FloatArray) -> Event:
        assert self.env is not None
        if not np.isfinite(actions).all():
            raise ValueError("actions must be finite, got nan or inf")
        seen = Seen(self.spec, len(actions), self.images)
        rewards: list[float] = []
        states: list[FloatArray] = []
        moments: list[Motion] = []
        info: dict[str, Any] = {}
        done = False
        for action in actions:
            obs, reward, terminated, truncated, info = self.env.step(action)
            seen.add(self._checked(obs))
            rewards.append(float(reward))
            moments.append(self.task.motion(self.env))
            if self.record:
                states.append(self.task.state(self.env))
            if self.film:
                self.film.look_at(self.env, info)
            done = bool(terminated or truncated)
            if done:
                break
        written, no_film = self.film.ended(done) if self.film else (None, "")
        event = Event(
            self.slot,
            "chunk",
            seen.whole(),
            np.asarray(rewards),
            done,
            info,
            Motion.stack(moments),
            video=written,
            no_film=no_film,
        )
        return replace(event, states=np.asarray(states, np.float64)) if self.record else event

    def close(self) -> None:
        env, self.env = self.env, None
        if env is not None:
            env.close()

    def _checked(self, obs: Arrays) -> Arrays:
        """An observation that is what the task says.

        Raises:
            EnvError: it is something else, and would be so again.
        """
        if wrong := self.spec.differences(obs):
            raise EnvError(
                f"observations of task {self.task.name!r} are not what its obs_spec says: "
                + "; ".join(wrong)
            )
        return obs

    def _env_for(self, rendering: bool) -> Env:
        if self.env is None or self.rendering != rendering:
            self.close()
            try:
                if rendering:
                    load_av()
                self.env = self.task.make_env(render=rendering)
            except Exception as error:
                failure = EnvError(
                    f"cannot build task {self.task.name!r}: {rendering_words(error)}"
                )
                failure.add_note(traceback.format_exc())
                raise failure from None
            self.rendering = rendering
        return self.env


def _die_with_fork_server() -> None:
    """Ask Linux to kill this process when the one that forked it ends, even while it is stopped.

    The fork server ends when nobody holds its pipe any more: the main process, and until it gives
    it up here every worker, which would be asked for processes of its own through it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    server: Any = forkserver._forkserver
    if (held := getattr(server, "_forkserver_alive_fd", None)) is not None:
        os.close(held)
        server._forkserver_alive_fd = None


def _exit_with_parent() -> None:
    """Leave at once when the parent is gone, even in the middle of a step that never ends."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def plugins_of(task: Task) -> list[str]:
    """What a worker imports besides the task's own module: the plug-ins of the task's package."""
    package = type(task).__module__.partition(".")[0]
    return [name for name in PLUGINS if name.partition(".")[0] == package]


def serve(
    conn: Connection,
    slot: int,
    task: Task,
    record: bool = False,
    plugins: Sequence[str] = (),
    frames: Frames | None = None,
) -> None:
    """Answer requests `(method of Host, arguments)` until the other end is closed.

    The answer is an `Event`, or an `EnvError` if the environment cannot be built. Images of the
    event are in `frames`, where there is one, and in their place is how many.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(ONE_THREAD)
    turn_off_what_cannot_be_loaded()
    _die_with_fork_server()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    for name in plugins:
        import_module(name)
    host = Host(slot, task, record, frames)
    while True:
        try:
            method, arguments = conn.recv()
        except (EOFError, ConnectionResetError):  # the latter if it left an answer unread
            break
        answer: Event | EnvError
        try:
            answer = getattr(host, method)(*arguments)
        except EnvError as error:
            answer = error
        except Exception:
            answer = Event(slot, "error", error=traceback.format_exc())
        try:
            conn.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            break
    host.close()
