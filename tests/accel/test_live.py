"""A robot that goes on while its policy thinks: what it does at every step, and what it refuses."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch

from accel import LivePolicy, UniformConfig, WarmConfig, accelerate, accelerated
from policies import DiffusionPolicy
from tests.helpers.quant_data import small_policy

CHUNK = 4


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    """Two observations of 5 numbers, chunks of 4 actions of 3."""
    return small_policy()


def live(policy: DiffusionPolicy, **settings: Any) -> LivePolicy:
    found = accelerate(policy, seed=0, realtime=True, hold=torch.clone, **settings)
    assert isinstance(found, LivePolicy)
    return found


@pytest.fixture
def fast(policy: DiffusionPolicy) -> Iterator[LivePolicy]:
    with live(policy) as found:
        yield found


class Slow:
    """An accelerated policy whose answers wait until they are let go."""

    def __init__(self, fast: Any) -> None:
        self.fast, self.gate = fast, threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fast, name)

    def act(self, *asked: Any) -> torch.Tensor:
        assert self.gate.acquire(timeout=60)
        actions: torch.Tensor = self.fast.act(*asked)
        return actions


def observed(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=5)


def answered(found: LivePolicy) -> None:
    """Wait until the query under way is answered, without taking the answer."""
    assert found._asked is not None
    found._asked[1].result(60)


def test_an_answer_is_what_act_says_as_far_as_the_horizon_reaches(
    policy: DiffusionPolicy, fast: LivePolicy
) -> None:
    obs = np.zeros((2, 5))
    fast.begin(obs, seed=3)
    actions = fast.poll(timeout_s=60)
    assert type(actions) is np.ndarray
    assert actions.shape == (policy.longest_chunk, 3)
    with accelerate(policy) as plain:
        np.testing.assert_allclose(actions[:CHUNK], plain.act(obs, seed=3), atol=1e-5)
    np.testing.assert_array_equal(fast.act(obs, seed=3), actions)
    assert fast.latency_ms["last"] > 0


def test_polling_does_not_wait(policy: DiffusionPolicy) -> None:
    with live(policy) as fast:
        slow = Slow(fast.fast)
        fast.fast = cast(Any, slow)
        fast.begin(np.zeros((2, 5)))
        assert fast.is_thinking
        assert fast.poll() is None
        assert fast.poll(timeout_s=0.01) is None
        for refused in (fast.begin, fast.act):
            with pytest.raises(RuntimeError, match="a query is under way: poll"):
                refused(np.zeros((2, 5)))
        slow.gate.release()
        assert fast.poll(timeout_s=60) is not None
        assert not fast.is_thinking
        with pytest.raises(RuntimeError, match=r"no query was begun: begin\(obs\)"):
            fast.poll()


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_late_actions_are_dropped_and_the_old_chunk_goes_on(
    policy: DiffusionPolicy, delay: int
) -> None:
    """Step by step against chunks that were asked for by hand at the same times."""
    with live(policy) as fast:
        slow = Slow(fast.fast)
        fast.fast = cast(Any, slow)
        slow.gate.release()
        asked: list[int] = []
        done: list[np.ndarray] = []
        for step in range(20):
            if fast.is_thinking and step - asked[-1] == delay:
                slow.gate.release()
                answered(fast)
            before = fast.n_queries + fast.is_thinking
            done.append(fast.step(observed(step)))
            if fast.n_queries + fast.is_thinking > before:
                asked.append(step)
        slow.gate.release()
    assert asked[:2] == [0, CHUNK]
    periods = {b - a for a, b in itertools.pairwise(asked)}
    assert periods <= {CHUNK, policy.longest_chunk - delay}
    assert fast.n_held == 0
    assert set(fast.delays) == {delay}
    with live(policy) as again:
        chunks = []
        for start in asked:
            seen = np.stack([observed(max(start - 1, 0)), observed(start)])
            chunks.append((start, again.act(seen)))
    for step, action in enumerate(done):
        latest = [(a, c) for a, c in chunks if step >= a + (delay if a else 0)][-1]
        np.testing.assert_allclose(action, latest[1][step - latest[0]], atol=1e-5)


def test_a_robot_holds_where_a_chunk_has_ended(policy: DiffusionPolicy) -> None:
    with accelerate(policy, seed=0, realtime=True, hold=torch.zeros_like) as fast:
        assert isinstance(fast, LivePolicy)
        slow = Slow(fast.fast)
        fast.fast = cast(Any, slow)
        slow.gate.release()
        actions = [fast.step(observed(step)) for step in range(policy.longest_chunk + 3)]
        assert [not action.any() for action in actions[-4:]] == [False, True, True, True]
        assert fast.n_held == 3
        slow.gate.release()
        answered(fast)
        slow.gate.release()  # for a query that the next step may begin
        assert fast.step(observed(0)).any() or fast.n_held == 4
        fast.reset()
        slow.gate.release()
        assert fast.step(observed(0)).any()


def test_chunks_are_joined_where_it_is_asked_for(policy: DiffusionPolicy) -> None:
    joined = WarmConfig(start=0, join="hard")
    with live(policy, warm=joined) as fast:
        first = fast.act(np.zeros((2, 5)))
        fast.begin(np.ones((2, 5)), executed=1)
        second = fast.poll(timeout_s=60)
        np.testing.assert_allclose(second[0], first[1], atol=1e-5)  # one step is committed
        assert not np.allclose(second[1:3], first[2:4], atol=1e-2)
        fast.reset()
        with pytest.raises(ValueError, match=r"must have 1 rows .* got 3: call reset\(\)"):
            [fast.act(np.zeros((rows, 2, 5))) for rows in (1, 3)]


def test_a_warm_start_goes_from_query_to_query(policy: DiffusionPolicy) -> None:
    obs = torch.zeros(1, 2, 5)
    with accelerate(policy, seed=0, warm=WarmConfig(start=2)) as fast:
        found = [fast.act(obs, seed=seed) for seed in range(3)]
        fast.reset()
        assert torch.equal(fast.act(obs, seed=0), found[0])
    memory: list[dict[str, Any]] = [{}]
    with accelerated(policy, warm=WarmConfig(start=2)) as plain:
        for seed, actions in enumerate(found):
            noise = [torch.Generator().manual_seed(seed)]
            torch.testing.assert_close(plain.act(obs, noise, memory), actions)


def test_a_failure_in_the_thread_reaches_who_asked(fast: LivePolicy) -> None:
    class Broken(Slow):
        def act(self, *asked: Any) -> torch.Tensor:
            raise FloatingPointError("the policy returned NaN")

    fast.fast = cast(Any, Broken(fast.fast))
    fast.begin(np.zeros((2, 5)))
    with pytest.raises(FloatingPointError, match="NaN"):
        fast.poll(timeout_s=60)
    assert not fast.is_thinking
    with pytest.raises(ValueError, match=r"obs\[0, 1\] must be finite"):
        fast.begin(np.array([[0, np.nan, 0, 0, 0], [0] * 5]))


def test_what_is_refused(policy: DiffusionPolicy) -> None:
    with pytest.raises(ValueError, match="realtime=True needs hold="):
        accelerate(policy, realtime=True)
    with pytest.raises(ValueError, match="hold= needs realtime=True"):
        accelerate(policy, hold=torch.clone)
    with pytest.raises(ValueError, match="warm must be one of none, chunk, got 'x'"):
        accelerate(policy, warm="x")
    fast = live(policy, cache=UniformConfig(steps=2))
    fast.close()
    with pytest.raises(RuntimeError, match="the policy is closed"):
        fast.begin(np.zeros((2, 5)))
