"""Episodes: a policy in an env pool, one result per seed whatever the number of envs."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from accel.warm import COMMITTED, EXECUTED
from envs import EnvPool, Event, Task
from skipstep.observations import Arrays, as_seen, each, n_rows, stacked, take

from .clock import Clock
from .episode import EpisodeResult, Slot, observe, result_of
from .observed import remembers, tensors
from .realtime import Delays, Timeline
from .trajectory import Recorder

ATTEMPTS = 2


class Acting(Protocol):
    """What is evaluated: a plain policy or an accelerated one.

    act: a tensor or a mapping of tensors, and a generator per row -> actions; one whose `obs_spec`
        has images, or that says `keeps_memory`, also takes `memory`, a dict per row.
    """

    n_obs_steps: int
    n_action_steps: int

    def act(self, obs: Any, noise: Sequence[torch.Generator]) -> Tensor: ...


def query_noise(noise_seed: int, seed: int, query: int) -> torch.Generator:
    """The noise of one query: a function of these three numbers alone."""
    state = np.random.SeedSequence((noise_seed, seed, query)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def act_padded(
    policy: Acting,
    obs: Arrays,
    noise: list[torch.Generator],
    batch: int,
    memory: list[dict[str, Any]] | None = None,
) -> np.ndarray:
    """Act on a batch of constant size: a row's bits then do not depend on the other rows.

    Args:
        policy: plain or accelerated.
        obs: (n, n_obs_steps, obs_dim), n <= batch, or a mapping of such arrays.
        noise: one generator per row.
        batch: rows that the policy sees; the missing ones repeat the first one with its noise, so
            that a cache which decides by row is counted on queries that were asked.
        memory: of each row's episode, for a policy that keeps one; the missing rows have copies of
            the first one's, which are thrown away (not deep: what is kept there is replaced, never
            changed).

    Returns:
        (n, n_action_steps, action_dim) float64
    """
    n = n_rows(obs)
    missing = batch - n
    rows = each(lambda array: np.concatenate([array, np.repeat(array[:1], missing, axis=0)]), obs)
    filler = [torch.Generator() for _ in range(missing)]
    for generator in filler:
        generator.set_state(noise[0].get_state())
    kept = {}
    if memory is not None:
        kept["memory"] = [*memory, *(dict(memory[0]) for _ in range(missing))]
    actions = policy.act(tensors(rows), [*noise, *filler], **kept)[:n]
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
    who: str = "",
    timeout_s: float = 120.0,
    disturb: Callable[[int, int, np.ndarray], np.ndarray] = lambda seed, query, actions: actions,
    record: bool = False,
    clock: Clock | None = None,
    delays: Delays | None = None,
    room_for: Callable[[Arrays], float] = lambda query: math.inf,
    stepped: Callable[[int], None] = lambda n_steps: None,
) -> Iterator[EpisodeResult]:
    """Run every seed to its end; results come in the order in which episodes finish.

    Args:
        policy: acts on (policy_batch, n_obs_steps, obs_dim), or a mapping of such arrays.
        task: makes the envs and scores episodes.
        seeds: of the episodes.
        n_envs: worker processes; a free one takes the next seed.
        noise_seed: with the episode's seed and the query's index it makes the query's noise.
        policy_batch: rows of a query, constant; part of the result's identity, unlike n_envs.
        video_of: seed -> where to write its video, or None.
        who: what the arm is called under the frames of videos.
        timeout_s: a worker that does not answer for this long is replaced.
        disturb: (seed, query, the policy's actions) -> the actions that are executed.
        record: results have a trajectory, with the simulator's states.
        clock: counts the seconds in which the policy acts and simulators are waited for.
        delays: the simulator goes on for so long while the policy thinks.
        stepped: is told how many steps a simulator has done more.
        room_for: what a query saw -> how many such queries, the first ones, a result keeps.

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
    rules = _Rules(
        policy_batch, noise_seed, video_of, who, disturb, record, delays, room_for, stepped
    )
    with EnvPool(task, min(n_envs, len(seeds)), timeout_s, record) as pool:
        yield from _Episodes(policy, task, pool, seeds, rules, clock or Clock()).played(n_envs)


@dataclass(frozen=True)
class _Rules:
    """How episodes are played, see `evaluate`."""

    policy_batch: int
    noise_seed: int
    video_of: Callable[[int], Path | None]
    who: str
    disturb: Callable[[int, int, np.ndarray], np.ndarray]
    record: bool
    delays: Delays | None
    room_for: Callable[[Arrays], float]
    stepped: Callable[[int], None]

    @property
    def committed(self) -> int:
        """Actions of a chunk that are executed while the next query is thought about."""
        return self.delays.lead if self.delays else 0


class _Episodes:
    """Episodes in a pool: those that wait for a worker, that run, and that wait for the policy."""

    def __init__(
        self,
        policy: Acting,
        task: Task,
        pool: EnvPool,
        seeds: Sequence[int],
        rules: _Rules,
        clock: Clock,
    ) -> None:
        self.policy, self.task, self.pool = policy, task, pool
        self.rules, self.clock = rules, clock
        self.queue = deque((seed, 1, True) for seed in seeds)
        self.slots: dict[int, Slot] = {}
        self.waiting: deque[int] = deque()

    def played(self, n_envs: int) -> Iterator[EpisodeResult]:
        """All of them, in the order in which they finish."""
        for index in range(min(n_envs, len(self.queue))):
            self._start(index)
        while self.slots:
            n_waiting = len(self.waiting)
            if n_waiting and n_waiting >= min(self.rules.policy_batch, len(self.slots)):
                self._act()
                continue
            with self.clock.waiting():
                events = self.pool.wait()
            for event in events:
                ended = self._answered(event)
                if ended is not None:
                    yield result_of(self.task, ended, event)

    def _start(self, index: int) -> None:
        """Give a worker the next seed, if there is one."""
        if not self.queue:
            return
        seed, attempt, filmed = self.queue.popleft()
        rules = self.rules
        self.slots[index] = Slot(
            seed,
            attempt,
            time.perf_counter(),
            deque(maxlen=self.policy.n_obs_steps),
            recorder=Recorder() if rules.record else None,
            timeline=_timeline(self.task, rules.delays, rules.noise_seed, seed),
        )
        self.pool.reset(index, seed, rules.video_of(seed) if filmed else None, rules.who)

    def _act(self) -> None:
        """Ask the policy once, for as many as its batch has room for."""
        rules = self.rules
        n = min(rules.policy_batch, len(self.waiting))
        batch = [self.waiting.popleft() for _ in range(n)]
        with self.clock.acting():
            slots = [self.slots[index] for index in batch]
            chunks = _query(self.policy, slots, rules)
        for index, slot, actions in zip(batch, slots, chunks, strict=True):
            executed = self._executed(slot, actions)
            slot.memory |= {EXECUTED: len(executed), COMMITTED: rules.committed}
            self.pool.step(index, executed)

    def _executed(self, slot: Slot, actions: np.ndarray) -> np.ndarray:
        """What the simulator is to do of the policy's answer, noted where it is gathered."""
        query = slot.n_queries - 1
        executed = self.rules.disturb(slot.seed, query, actions)
        sources = np.full(len(executed), query)
        if slot.timeline:
            executed = slot.timeline.execute(executed)
            sources = slot.timeline.sources
        slot.gathered.ask(executed, sources)
        if slot.recorder:
            slot.recorder.ask(actions, executed)
        return executed

    def _answered(self, event: Event) -> Slot | None:
        """Take a worker's answer; the episode, if it has ended for good."""
        slot = self.slots[event.slot]
        observe(slot, event)
        self.rules.stepped(len(event.rewards))
        if event.kind != "error" and not event.done:
            self.waiting.append(event.slot)
            return None
        del self.slots[event.slot]
        again = event.kind == "error" and slot.attempt < ATTEMPTS
        if again:  # without a film where it did not begin: rendering may have ended the process
            self.queue.appendleft((slot.seed, slot.attempt + 1, bool(slot.history)))
        self._start(event.slot)
        return None if again else slot


def _timeline(task: Task, delays: Delays | None, noise_seed: int, seed: int) -> Timeline | None:
    if delays is None:
        return None
    return Timeline(lambda query: delays.of(noise_seed, seed, query), delays.lead, task.hold)


def _query(policy: Acting, slots: list[Slot], rules: _Rules) -> np.ndarray:
    noise = [query_noise(rules.noise_seed, slot.seed, slot.n_queries) for slot in slots]
    obs = as_seen(stacked([stacked(slot.history) for slot in slots]))
    for row, slot in enumerate(slots):
        slot.asked(take(obs, row), rules.room_for)
    memory = [slot.memory for slot in slots] if remembers(policy) else None
    return act_padded(policy, obs, noise, rules.policy_batch, memory)
