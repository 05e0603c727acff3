"""Episodes: a policy in an env pool, one result per seed whatever the number of envs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from envs import EnvPool, Event, Task

from .clock import Clock
from .embodied import Gathered
from .realtime import Delays, Timeline
from .trajectory import Recorder, Trajectory

ATTEMPTS = 2


class Acting(Protocol):
    """What is evaluated: a plain policy or an accelerated one."""

    n_obs_steps: int
    n_action_steps: int

    def act(self, obs: Tensor, noise: Sequence[torch.Generator]) -> Tensor: ...


@dataclass(frozen=True)
class EpisodeResult:
    """One episode; `success`, `score` and `details` are None for status "error".

    embodied: time, motion and energy, as `Gathered.measured` says; None for status "error".
    observations: (n_queries, n_obs_steps, obs_dim), what the policy saw.
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
    observations: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    trajectory: Trajectory | None = field(default=None, repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        """What goes to episodes.jsonl."""
        arrays = ("observations", "trajectory")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays}


@dataclass
class Slot:
    """The episode that a worker is running."""

    seed: int
    attempt: int
    started: float
    history: deque[np.ndarray]
    rewards: list[float] = field(default_factory=list)
    observations: list[np.ndarray] = field(default_factory=list)
    gathered: Gathered = field(default_factory=Gathered)
    recorder: Recorder | None = None
    timeline: Timeline | None = None


def query_noise(noise_seed: int, seed: int, query: int) -> torch.Generator:
    """The noise of one query: a function of these three numbers alone."""
    state = np.random.SeedSequence((noise_seed, seed, query)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def act_padded(
    policy: Acting, obs: np.ndarray, noise: list[torch.Generator], batch: int
) -> np.ndarray:
    """Act on a batch of constant size: a row's bits then do not depend on the other rows.

    Args:
        policy: plain or accelerated.
        obs: (n, n_obs_steps, obs_dim), n <= batch.
        noise: one generator per row.
        batch: rows that the policy sees; the missing ones repeat the first one with its noise, so
            that a cache which decides by row is counted on queries that were asked.

    Returns:
        (n, n_action_steps, action_dim) float64
    """
    missing = batch - len(obs)
    rows = np.concatenate([obs, np.repeat(obs[:1], missing, axis=0)])
    filler = [torch.Generator() for _ in range(missing)]
    for generator in filler:
        generator.set_state(noise[0].get_state())
    actions = policy.act(torch.from_numpy(rows).float(), [*noise, *filler])[: len(obs)]
    if not bool(actions.isfinite().all()):
        raise FloatingPointError("the policy returned NaN or infinite actions")
    return actions.double().cpu().numpy()


def evaluate(
    policy: Acting,
    task: Task,
    seeds: Sequence[int],
    n_envs: int,
    noise_seed: int,
    *,
    policy_batch: int = 8,
    video_of: Callable[[int], Path | None] = lambda seed: None,
    timeout_s: float = 120.0,
    disturb: Callable[[int, int, np.ndarray], np.ndarray] = lambda seed, query, actions: actions,
    record: bool = False,
    clock: Clock | None = None,
    delays: Delays | None = None,
) -> Iterator[EpisodeResult]:
    """Run every seed to its end; results come in the order in which episodes finish.

    Args:
        policy: acts on (policy_batch, n_obs_steps, obs_dim).
        task: makes the envs and scores episodes.
        seeds: of the episodes.
        n_envs: worker processes; a free one takes the next seed.
        noise_seed: with the episode's seed and the query's index it makes the query's noise.
        policy_batch: constant batch size of the policy; part of the result's identity, unlike
            n_envs.
        video_of: seed -> where to write its video, or None.
        timeout_s: a worker that does not answer for this long is replaced.
        disturb: (seed, query, the policy's actions) -> the actions that are executed.
        record: results have a trajectory, with the simulator's states.
        clock: counts the seconds in which the policy acts and simulators are waited for.
        delays: the simulator goes on for so long while the policy thinks.

    Yields:
        One result per seed. An episode whose worker dies, raises or hangs is run once more, then
        yielded as an error.

    Example:
        >>> from envs import make_task
        >>> from policies import load_policy
        >>> policy = load_policy("checkpoints/kitchen").with_sampler("ddpm", 2)
        >>> task = make_task("kitchen", max_steps=8)
        >>> (episode,) = evaluate(policy, task, seeds=[100000], n_envs=1, noise_seed=0)
        >>> episode.status, episode.n_steps, episode.n_queries
        ('ok', 8, 1)
    """
    clock = clock or Clock()
    queue = deque((seed, 1) for seed in seeds)
    slots: dict[int, Slot] = {}
    waiting: deque[int] = deque()
    with EnvPool(task, min(n_envs, len(queue)), timeout_s, record) as pool:

        def start(index: int) -> None:
            if queue:
                seed, attempt = queue.popleft()
                history: deque[np.ndarray] = deque(maxlen=policy.n_obs_steps)
                recorder = Recorder() if record else None
                slots[index] = Slot(
                    seed,
                    attempt,
                    time.perf_counter(),
                    history,
                    recorder=recorder,
                    timeline=_timeline(task, delays, noise_seed, seed),
                )
                pool.reset(index, seed, video_of(seed))

        for index in range(min(n_envs, len(queue))):
            start(index)
        while slots:
            if waiting and (len(waiting) >= policy_batch or len(waiting) == len(slots)):
                batch = [waiting.popleft() for _ in range(min(policy_batch, len(waiting)))]
                with clock.acting():
                    chunks = _query(policy, [slots[i] for i in batch], noise_seed, policy_batch)
                for index, actions in zip(batch, chunks, strict=True):
                    slot = slots[index]
                    query = len(slot.observations) - 1
                    executed = disturb(slot.seed, query, actions)
                    sources = np.full(len(executed), query)
                    if slot.timeline:
                        executed = slot.timeline.execute(executed)
                        sources = slot.timeline.sources
                    slot.gathered.ask(executed, sources)
                    if slot.recorder:
                        slot.recorder.ask(actions, executed)
                    pool.step(index, executed)
                continue
            with clock.waiting():
                events = pool.wait()
            for event in events:
                slot = slots[event.slot]
                _observe(slot, event)
                if event.kind != "error" and not event.done:
                    waiting.append(event.slot)
                    continue
                del slots[event.slot]
                if event.kind == "error" and slot.attempt < ATTEMPTS:
                    queue.appendleft((slot.seed, slot.attempt + 1))
                    start(event.slot)
                    continue
                start(event.slot)
                yield _result(task, slot, event)


def _timeline(task: Task, delays: Delays | None, noise_seed: int, seed: int) -> Timeline | None:
    if delays is None:
        return None
    return Timeline(lambda query: delays.of(noise_seed, seed, query), delays.lead, task.hold)


def _observe(slot: Slot, event: Event) -> None:
    if event.kind != "error":
        slot.gathered.answer(event)
        if slot.recorder:
            slot.recorder.answer(event)
    if event.kind == "ready":  # the history before the episode is the reset's observation
        slot.history.extend([event.obs[0]] * (slot.history.maxlen or 1))
    elif event.kind == "chunk":
        slot.history.extend(event.obs)
        slot.rewards.extend(event.rewards.tolist())


def _query(policy: Acting, slots: list[Slot], noise_seed: int, batch: int) -> np.ndarray:
    noise = [query_noise(noise_seed, slot.seed, len(slot.observations)) for slot in slots]
    obs = np.stack([np.stack(slot.history) for slot in slots]).astype(np.float32)
    for slot, row in zip(slots, obs, strict=True):
        slot.observations.append(row)
    return act_padded(policy, obs, noise, batch)


def _result(task: Task, slot: Slot, event: Event) -> EpisodeResult:
    rewards = np.array(slot.rewards)
    score = None if event.kind == "error" else task.score(rewards, event.info)
    measured = slot.gathered.measured
    return EpisodeResult(
        seed=slot.seed,
        status="ok" if score else "error",
        success=score.success if score else None,
        score=score.score if score else None,
        n_steps=len(slot.rewards),
        n_queries=len(slot.observations),
        seconds=round(time.perf_counter() - slot.started, 3),
        attempts=slot.attempt,
        details=score.details if score else None,
        embodied=measured(task, rewards, event.info, score.success) if score else None,
        error=event.error,
        video=event.video,
        observations=np.array(slot.observations),
        trajectory=slot.recorder.trajectory() if slot.recorder and score else None,
    )
