"""Requests of several robots in one batch of the policy.

A batch has a constant size, so the bits of an answer do not depend on who else asked; its noise is
a function of the run's seed, the client and the client's query.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skipstep.observations import Arrays, stacked

from ..episodes.loop import act_padded, query_noise


@dataclass
class Request:
    """One observation that waits for its actions.

    Attributes:
        obs: (n_obs_steps, ...) of numpy.
        client, query: which its noise is of.
        answer: gets (n_action_steps, action_dim), the seconds it waited and those the policy took.
    """

    obs: Arrays
    client: int
    query: int
    answer: asyncio.Future[tuple[np.ndarray, float, float]]
    asked: float = field(default_factory=time.perf_counter)


class Batcher:
    """Collects requests for `window_s` after the first, and asks the policy in a thread of its own.

    Args:
        policy: what acts.
        batch: rows of a query, constant.
        window_s: how long a request waits for others; a full batch does not wait.
        noise_seed: of all noise.
    """

    def __init__(self, policy: Any, batch: int, window_s: float, noise_seed: int) -> None:
        self.policy, self.batch = policy, batch
        self.window_s, self.noise_seed = window_s, noise_seed
        self.waiting: list[Request] = []
        self.n_batches = 0
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "policy")

    async def ask(self, obs: Arrays, client: int, query: int) -> tuple[np.ndarray, float, float]:
        """The actions of one observation, and the seconds of waiting and of acting."""
        future: asyncio.Future[tuple[np.ndarray, float, float]]
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(Request(obs, client, query, future))
        self._came.set()
        return await future

    async def run(self) -> None:
        """Answer until it is cancelled; a batch that has begun is finished."""
        while True:
            await self._came.wait()
            if len(self.waiting) < self.batch:
                await asyncio.sleep(self.window_s)
            requests, self.waiting = self.waiting[: self.batch], self.waiting[self.batch :]
            if not self.waiting:
                self._came.clear()
            await asyncio.shield(self._answer(requests))

    async def _answer(self, requests: Sequence[Request]) -> None:
        began, loop = time.perf_counter(), asyncio.get_running_loop()
        try:
            actions = await loop.run_in_executor(self._thread, self._act, requests)
        except Exception as error:
            for request in requests:
                if not request.answer.done():
                    request.answer.set_exception(error)
            return
        took = time.perf_counter() - began
        self.n_batches += 1
        for request, row in zip(requests, actions, strict=True):
            if not request.answer.done():  # its client has gone
                request.answer.set_result((row, began - request.asked, took))

    def _act(self, requests: Sequence[Request]) -> np.ndarray:
        noise = [query_noise(self.noise_seed, r.client, r.query) for r in requests]
        memory: list[dict[str, Any]] | None = None
        obs = stacked([request.obs for request in requests])
        return act_padded(self.policy, obs, noise, self.batch, memory)
