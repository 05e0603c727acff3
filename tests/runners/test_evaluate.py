"""Episodes: the result of a seed depends on nothing but the seed."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from accel import UniformConfig, accelerated
from policies import DiffusionPolicy, from_reference
from runners.episodes.episode import EpisodeResult
from runners.episodes.loop import evaluate, query_noise
from tests.helpers.stock import live_policy
from tests.helpers.toy import ToyTask

SEEDS = range(100, 112)


def toy_policy() -> DiffusionPolicy:
    return from_reference(live_policy())


def toy(**overrides: Any) -> ToyTask:
    return ToyTask(obs_dim=5, action_dim=3, max_steps=18, **overrides)


def run(policy: Any, task: ToyTask, n_envs: int, **overrides: Any) -> dict[int, EpisodeResult]:
    results = list(evaluate(policy, task, SEEDS, n_envs, 0, **overrides))
    assert sorted(r.seed for r in results) == list(SEEDS)
    return {r.seed: r for r in results}


def facts(results: dict[int, EpisodeResult]) -> dict[int, tuple[Any, ...]]:
    """What must not depend on the machine."""
    return {
        s: (r.status, r.success, r.score, r.n_steps, r.n_queries, r.observations.tobytes())
        for s, r in results.items()
    }


def workers() -> list[psutil.Process]:
    """Processes of worlds; this process may have others, such as W&B's."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie is one
            if "multiprocessing" in " ".join(child.cmdline()):
                found.append(child)
    return found


def no_child_left() -> bool:
    return not [c for c in workers() if "multiprocessing.spawn" in " ".join(c.cmdline())]


@pytest.mark.parametrize("cache", [None, UniformConfig(steps=3)])
def test_results_do_not_depend_on_n_envs_or_on_who_finishes_first(cache: Any) -> None:
    with accelerated(toy_policy(), cache=cache) as policy:
        alone = facts(run(policy, toy(), 1))
        assert facts(run(policy, toy(delay_s=0.01), 3)) == alone
        assert facts(run(policy, toy(delay_s=0.01), 4)) == alone
        assert facts(run(policy, toy(), 12, policy_batch=8)) == alone
    assert {f[1] for f in alone.values()} == {
        True,
        False,
    }  # the toy is neither trivial nor hopeless


def test_another_noise_seed_changes_episodes() -> None:
    policy = toy_policy()
    first = [r.observations.tobytes() for r in evaluate(policy, toy(), [100], 1, 0)]
    assert first != [r.observations.tobytes() for r in evaluate(policy, toy(), [100], 1, 1)]


def test_noise_is_a_function_of_its_three_numbers() -> None:
    draws = {
        key: torch.randn(4, generator=query_noise(*key)).tolist()
        for key in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0)]
    }
    assert len({tuple(d) for d in draws.values()}) == 4
    assert draws[0, 1, 2] == torch.randn(4, generator=query_noise(0, 1, 2)).tolist()


def test_the_history_is_padded_with_the_reset_and_ends_with_the_newest() -> None:
    (result,) = evaluate(toy_policy(), toy(), [103], 1, 0)
    first, second = result.observations[:2]
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(second[0], second[1])
    assert result.n_queries == len(result.observations) == -(-result.n_steps // 4)


@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_a_broken_episode_is_run_once_more(fault: str, tmp_path: Path) -> None:
    policy = toy_policy()
    calm = facts(run(policy, toy(), 3))
    marker = str(tmp_path / "broken")
    broken = run(policy, toy(fault=fault, fault_seed=105, fault_marker=marker), 3)
    assert facts(broken) == calm
    assert {s for s, r in broken.items() if r.attempts == 2} == {105}
    assert no_child_left()


@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_an_episode_that_always_breaks_is_an_error_and_the_rest_goes_on(fault: str) -> None:
    policy = toy_policy()
    calm = facts(run(policy, toy(), 3))
    broken = run(policy, toy(fault=fault, fault_seed=105), 3)
    assert broken[105].status == "error"
    assert broken[105].success is None
    assert ("the toy broke" if fault == "raise" else "-9") in (broken[105].error or "")
    assert {s: f for s, f in facts(broken).items() if s != 105} == {
        s: f for s, f in calm.items() if s != 105
    }
    assert no_child_left()


def test_a_worker_killed_from_outside_costs_only_its_episode() -> None:
    policy = toy_policy()
    calm = facts(run(policy, toy(), 2))

    def killer() -> None:
        while not done.wait(0.05):
            for child in workers():
                if child.memory_info().rss > 2e7 and child.children() == [] and not killed:
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)

    done, killed = threading.Event(), list[int]()
    thread = threading.Thread(target=killer)
    results = []
    for result in evaluate(policy, toy(delay_s=0.02), SEEDS, 2, 0):
        if not results:
            thread.start()
        results.append(result)
    done.set()
    thread.join()
    assert killed
    assert facts({r.seed: r for r in results}) == calm
    assert no_child_left()


def test_leaving_early_ends_the_workers() -> None:
    episodes = evaluate(toy_policy(), toy(), SEEDS, 2, 0)
    next(episodes)
    episodes.close()  # type: ignore[attr-defined]
    assert no_child_left()


def test_a_policy_that_returns_nan_stops_the_run() -> None:
    class Broken:
        n_obs_steps, n_action_steps = 2, 4

        def act(self, obs: torch.Tensor, noise: Any) -> torch.Tensor:
            return torch.full((len(obs), 4, 3), float("nan"))

    with pytest.raises(FloatingPointError, match="NaN"):
        list(evaluate(Broken(), toy(), [1], 1, 0))
    assert no_child_left()
