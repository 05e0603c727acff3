"""A robot that goes on while its policy thinks: queries in a thread, and a step that never waits.

What happens when is what runs under `realtime` do in a simulator (runners/episodes/realtime.py):
the first query is waited for; later ones are asked a chunk apart, early enough to be answered
before the last chunk ends; of an answer the actions that come too late are dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ..protocol import Noise
from ..warm import COMMITTED, EXECUTED
from .inputs import Batch, read
from .policy import RobotPolicy

REMEMBERED = 10  # delays of queries, of which the longest is expected of the next one
Hold = Callable[[Tensor], Tensor]


class LivePolicy(RobotPolicy):
    """What `accelerate(..., realtime=True)` makes: `step` at every step, or `begin` and `poll`.

    Args:
        fast: an accelerated policy whose chunks go on as far as its horizon reaches.
        seed, open_until_closed: as of `RobotPolicy`.
        chunk: actions that the policy executes of a chunk, without delays.
        hold: the last action (B, action_dim) -> what is done after a chunk's end.

    Attributes:
        delays: of the last queries, in steps.
        n_held: steps at which there was no action left, and `hold` said what to do.
    """

    def __init__(
        self, fast: Any, seed: int | None, open_until_closed: ExitStack, chunk: int, hold: Hold
    ) -> None:
        super().__init__(fast, seed, open_until_closed)
        self.chunk, self.hold = chunk, hold
        self.delays: deque[int] = deque(maxlen=REMEMBERED)
        self.n_held, self._closed = 0, False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="skipstep-query")
        self._asked: tuple[Batch, Future[Tensor]] | None = None
        self._actions: Tensor | None = None
        self._at = self._since = 0  # in the chunk; since it was asked

    @property
    def is_thinking(self) -> bool:
        """Whether a query was begun and its answer not taken."""
        return self._asked is not None

    def begin(self, obs: Any, seed: int | None = None, executed: int | None = None) -> None:
        """Ask in a thread; `poll` has the answer.

        Args:
            obs: as of `act`.
            seed: as of `act`.
            executed: steps that the robot did since it last asked, for a policy with `warm`; None:
                `chunk`.

        Raises:
            RuntimeError: the answer of an earlier query was not taken. Else as `act`.
        """
        batch = read(obs, self.obs_spec, self._aliases, self.n_obs_steps)
        self._begin(batch, self._noise(batch.n_rows, seed, None), executed)

    def poll(self, timeout_s: float | None = 0.0) -> Any:
        """The answer of the query that was begun; None while it is thought about.

        Args:
            timeout_s: it is waited for so long; None: until it is there.

        Returns:
            (n, action_dim), or (B, n, action_dim) of rows: the actions from the observation's time
            on, n_action_steps of them and more as far as the horizon reaches, as `act` has them.

        Raises:
            RuntimeError: no query was begun. Whatever the query raised.

        Example:
            >>> import numpy as np
            >>> from policies import load_policy
            >>> from accel.robot import accelerate
            >>> policy = load_policy("checkpoints/kitchen")
            >>> with accelerate(policy, sampler="ddpm", steps=5, realtime=True) as fast:
            ...     fast.begin(np.zeros((fast.n_obs_steps, fast.obs_dim)), seed=0)
            ...     actions = fast.poll(timeout_s=60)
            >>> actions.shape  # 8 are executed where nothing is late; the horizon has 5 more
            (13, 9)
        """
        if self._asked is None:
            raise RuntimeError("no query was begun: begin(obs), then poll()")
        batch, answer = self._asked
        try:
            actions = answer.result(timeout_s)
        except TimeoutError:
            if not answer.done():
                return None
            raise
        finally:
            if answer.done():
                self._asked = None
        return batch.returned(actions)

    def select_action(self, batch: Any) -> Any:
        """`step`, by LeRobot's name."""
        return self.step(batch)

    def step(self, obs: Any) -> Any:
        """The action of this step; only the first of an episode waits for the policy.

        Args:
            obs: the newest observation, as `select_action` takes it.

        Returns:
            (action_dim,), or (B, action_dim) of rows.
        """
        seen = read(obs, self.obs_spec, self._aliases, None, others=True)
        self._queues.see(seen)
        if self._actions is None:
            self._ask()
            self._actions, self._at = self.poll(None), 0
        elif self.is_thinking:
            answer = self.poll()
            if answer is not None:
                self._actions, self._at = answer, self._since
                self.delays.append(self._since)
        if not self.is_thinking and self._since >= self._period(self._actions.shape[1]):
            self._ask()
        action = self._next(self._actions)
        self._at, self._since = self._at + 1, self._since + 1
        return seen.returned(action)

    def reset(self) -> None:
        """A new episode begins; a query under way is waited for and thrown away."""
        super().reset()
        if self._asked is not None:
            self._asked[1].exception()
        self._asked = self._actions = None
        self._at = self._since = 0

    def close(self) -> None:
        """Wait for a query under way, and give back what the engine holds."""
        self._closed = True
        self._pool.shutdown(wait=True)
        super().close()

    def _period(self, n: int) -> int:
        """Steps between two queries: a chunk, or less where a late answer has no room for one."""
        return max(1, min(self.chunk, n - self._lead))

    @property
    def _lead(self) -> int:
        return max(self.delays, default=1)

    def _ask(self) -> None:
        batch = Batch(self._queues.history(), one_row=False, numpy=False)
        self._begin(batch, self._noise(batch.n_rows, None, None), self._since)
        self._since = 0

    def _begin(self, batch: Batch, noise: Noise, executed: int | None) -> None:
        self._refuse_two()
        for kept in self._memory:
            done = self.chunk if executed is None else executed
            kept |= {EXECUTED: done, COMMITTED: self._lead}
        if self._closed:
            raise RuntimeError("the policy is closed")
        self._asked = batch, self._pool.submit(super()._query, batch, noise)

    def _query(self, batch: Batch, noise: Noise) -> Tensor:
        self._refuse_two()
        for kept in self._memory:
            kept |= {EXECUTED: self.chunk, COMMITTED: 0}
        return super()._query(batch, noise)

    def _refuse_two(self) -> None:
        if self.is_thinking:
            raise RuntimeError("a query is under way: poll() until it is answered, then ask again")

    def _next(self, actions: Tensor) -> Tensor:
        if self._at < actions.shape[1]:
            return actions[:, self._at]
        self.n_held += 1
        return self.hold(actions[:, -1])


def holding(policy: Any, hold: Hold | None) -> Hold:
    """What a robot does after a chunk's end: what it was told, or the last absolute target again.

    Raises:
        ValueError: actions are not absolute, so that the last one would move it on.
    """
    if hold is not None:
        return hold
    task = getattr(getattr(policy, "config", None), "task", None)
    if getattr(task, "abs_action", None) is True:
        return torch.clone
    raise ValueError(
        "realtime=True needs hold=, the last action -> what keeps the robot where that sent it "
        "(this policy's actions are not known to be absolute)"
    )
