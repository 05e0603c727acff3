"""A seed is an episode, in any process and filmed or not, in both simulators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs import EnvPool, KitchenConfig, KitchenTask, LiftConfig, LiftTask, Task
from envs.task import FloatArray

TASKS = {
    "kitchen": KitchenTask(KitchenConfig(max_steps=20)),
    "lift": LiftTask(LiftConfig(max_steps=10)),
}


def actions(task: Task, obs: FloatArray) -> FloatArray:
    """Five random actions: small moves from where the robot is, or small deltas."""
    random = np.random.default_rng(0).uniform(-1.0, 1.0, (5, task.action_dim))
    return obs[-1, :9] + 0.05 * random if task.name == "kitchen" else random


def rollout(pool: EnvPool, slot: int, seed: int, video: Path | None = None) -> FloatArray:
    pool.reset(slot, seed, video)
    (event,) = pool.wait()
    obs = [event.obs]
    while not event.done:
        assert event.error is None
        pool.step(slot, actions(pool.task, obs[-1]))
        (event,) = pool.wait()
        obs.append(event.obs)
    assert event.video == (str(video) if video else None)
    return np.concatenate(obs)


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_is_an_episode_in_any_process_and_with_a_video(name: str, tmp_path: Path) -> None:
    with EnvPool(TASKS[name], 2) as pool:
        first = rollout(pool, 0, seed=5)
        other = rollout(pool, 0, seed=6)
        filmed = rollout(pool, 0, seed=5, video=tmp_path / "5.mp4")
        again = rollout(pool, 1, seed=5)
    assert len(first) == TASKS[name].max_steps + 1
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, filmed)
    assert np.abs(first - other).max() > 1e-3
    assert (tmp_path / "5.mp4").stat().st_size > 1000
