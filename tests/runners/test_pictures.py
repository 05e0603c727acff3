"""Episodes in which a policy sees pictures: the same whoever plays beside them, and no more kept
of them than is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel import UniformConfig, accelerated
from runners.episodes.episode import EpisodeResult
from runners.episodes.latency import LatencyConfig, measure
from runners.episodes.loop import act_padded, evaluate, query_noise
from runners.episodes.queries import Queries, choose_queries
from runners.episodes.trajectory import Trajectory
from runners.store import folder as store_folder
from runners.store.folder import MAX_OBSERVATIONS, RunStore, read_observations
from runners.store.shards import merge
from skipstep.observations import Arrays, each, n_bytes, n_rows, stacked, take
from tests.helpers.looking import Looking
from tests.helpers.picture import PictureTask, picture
from tests.runners.test_evaluate import run, toy, toy_policy


def task(**overrides: Any) -> PictureTask:
    return PictureTask(obs_dim=5, action_dim=3, max_steps=18, **overrides)


def facts(results: dict[int, EpisodeResult]) -> dict[int, tuple[Any, ...]]:
    return {
        seed: (
            *(r.status, r.success, r.score, r.n_steps, r.n_queries),
            *(r.observations[name].tobytes() for name in ("state", "image.top")),
        )
        for seed, r in results.items()
    }


@pytest.mark.parametrize("cache", [None, UniformConfig(steps=3)])
def test_results_do_not_depend_on_n_envs_or_on_who_finishes_first(cache: Any) -> None:
    with accelerated(Looking.small(), cache=cache) as policy:
        alone = facts(run(policy, task(), 1))
        assert facts(run(policy, task(delay_s=0.01), 3)) == alone
        assert facts(run(policy, task(delay_s=0.01), 4)) == alone
    assert {f[1] for f in alone.values()} == {True, False}


def test_what_the_policy_sees_decides() -> None:
    """Without what the picture adds to the state the same worlds go another way."""
    (looking,) = evaluate(Looking.small(), task(), [100], 1, 0)
    (blind,) = evaluate(toy_policy(), toy(), [100], 1, 0)
    states = looking.observations["state"]
    assert np.array_equal(states[0], blind.observations[0])
    assert not np.array_equal(states[1], blind.observations[1])


def test_the_history_is_padded_with_the_reset_and_ends_with_the_newest() -> None:
    (result,) = evaluate(Looking.small(), task(), [103], 1, 0)
    first, second = (take(result.observations, i) for i in range(2))
    for name in ("state", "image.top"):
        assert np.array_equal(first[name][0], first[name][1])
        assert not np.array_equal(second[name][0], second[name][1])
    assert first["state"].dtype == np.float32
    assert first["image.top"].dtype == np.uint8
    assert result.n_queries == n_rows(result.observations) == -(-result.n_steps // 4)


@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_a_broken_episode_begins_anew_with_nothing_remembered(fault: str, tmp_path: Path) -> None:
    policy = Looking.small()
    calm = facts(run(policy, task(), 3))
    marker = str(tmp_path / "broken")
    broken = run(policy, task(fault=fault, fault_seed=105, fault_marker=marker), 3)
    assert facts(broken) == calm
    assert {s for s, r in broken.items() if r.attempts == 2} == {105}


def test_frames_are_remembered_within_an_episode_only() -> None:
    """At the reset both frames are one; later queries have two new ones, four steps on."""
    policy = Looking.small()
    results = list(evaluate(policy, task(), [1, 1, 2], 1, 0, policy_batch=1))
    assert policy.n_encoded == sum(2 * r.n_queries - 1 for r in results)


class Remembering:
    """Says what its memory holds, and keeps that it was asked."""

    n_obs_steps, n_action_steps = 1, 1
    obs_spec = PictureTask(obs_dim=2).obs_spec

    def __init__(self) -> None:
        self.seen: list[list[dict[str, Any]]] = []

    def act(self, obs: Any, noise: Any, memory: Any = None) -> torch.Tensor:
        self.seen.append(memory)
        for row in memory:
            row["asked"] = row.get("asked", 0) + 1
        return torch.tensor([[[float(row["asked"])]] for row in memory])


def test_rows_that_fill_a_batch_have_a_memory_of_their_own() -> None:
    policy, memory = Remembering(), [{"asked": 3}, {}]
    obs = {"state": np.zeros((2, 1, 2), np.float32), "image.top": np.zeros((2, 1, 3, 2, 2), "u1")}
    noise = [query_noise(0, 0, row) for row in range(2)]
    actions = act_padded(policy, obs, noise, 4, memory)
    assert actions.tolist() == [[[4.0]], [[1.0]]]
    assert memory == [{"asked": 4}, {"asked": 1}]
    (rows,) = policy.seen
    assert [row["asked"] for row in rows] == [4, 1, 4, 4]
    assert [row is kept for row, kept in zip(rows, memory, strict=False)] == [True, True]


def test_a_policy_without_pictures_is_asked_as_before() -> None:
    class Old:
        n_obs_steps, n_action_steps = 2, 4

        def act(self, obs: torch.Tensor, noise: Any) -> torch.Tensor:
            assert obs.shape[1:] == (2, 5)
            return torch.zeros(len(obs), 4, 3)

    (result,) = evaluate(Old(), toy(), [1], 1, 0)
    assert result.status == "ok"


def played(n_kept: int | None) -> EpisodeResult:
    more = {} if n_kept is None else {"room_for": lambda query: n_kept}
    (result,) = evaluate(Looking.small(), task(success_band=0.0), [1], 1, 0, **more)
    return result


def test_an_episode_keeps_no_more_queries_than_are_wanted() -> None:
    everything = played(None)
    assert everything.n_queries == 5
    for n in (0, 2, 9):
        few = played(n)
        assert (few.n_queries, n_rows(few.observations)) == (5, min(n, 5))
        if n:
            head = take(everything.observations, slice(n))
            assert all(np.array_equal(few.observations[k], head[k]) for k in head)
            assert few.observations["image.top"].base is None  # nothing else is held by it


def queries(n: int, size: int = 4, first: int = 0) -> Arrays:
    numbers = np.arange(first, first + n)
    state = (numbers[:, None, None] * np.ones((n, 2, 3))).astype(np.float32)
    images = np.broadcast_to(
        (numbers % 256).astype(np.uint8)[:, None, None, None, None], (n, 2, 3, size, size)
    )
    return {"state": state, "image.top": images.copy()}


def same(ours: Arrays, theirs: Arrays) -> bool:
    assert list(ours) == list(theirs)
    assert all(ours[name].dtype == theirs[name].dtype for name in ours)
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_folder_keeps_the_first_queries_of_all_arrays(tmp_path: Path) -> None:
    store = RunStore(tmp_path, {"fingerprint": "a"})
    room = [store.room_for(take(queries(1), 0))]
    for i in range(3):
        store.add_observations(queries(50, first=50 * i))
        room.append(store.room_for(take(queries(1), 0)))
    assert room == [128, 78, 28, 0]
    assert same(store.observations(), queries(MAX_OBSERVATIONS))
    store.close()
    again = RunStore(tmp_path, {"fingerprint": "a"})
    assert again.room_for(take(queries(1), 0)) == 0
    with np.load(tmp_path / "observations.npz") as file:
        assert sorted(file) == ["obs/image.top", "obs/state"]


def test_large_images_are_kept_of_fewer_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path, {"fingerprint": "a"})
    large = {"image.top": np.zeros((2, 3, 384, 384), np.uint8)}
    assert store.room_for(large) == 2**25 // n_bytes(large) == 37
    assert store.room_for({"image.top": np.zeros((2, 3, 4000, 4000), np.uint8)}) == 8
    assert store.room_for(np.zeros((2, 60), np.float32)) == MAX_OBSERVATIONS
    monkeypatch.setattr(store_folder, "MAX_OBSERVATION_BYTES", 20 * n_bytes(take(queries(1), 0)))
    for first in (0, 15, 30):
        store.add_observations(queries(15, first=first))
    assert same(store.observations(), queries(20))


def test_a_folder_of_an_older_version_is_read_and_goes_on(tmp_path: Path) -> None:
    older = np.arange(100.0, dtype=np.float32).reshape(100, 1, 1)
    np.savez_compressed(tmp_path / "observations.npz", obs=older)
    store = RunStore(tmp_path, {"fingerprint": "a"})
    assert np.array_equal(store.observations(), older)
    store.add_observations(older)
    assert np.array_equal(store.observations(), np.concatenate([older, older])[:128])
    assert read_observations(tmp_path / "elsewhere/observations.npz") is None


def test_shards_bring_their_observations(tmp_path: Path) -> None:
    for i in range(2):
        with RunStore(tmp_path / f"shards/{i + 1}of2", {"fingerprint": "a"}) as part:
            part.append({"seed": i, "status": "ok", "success": True})
            part.add_observations(queries(80, first=80 * i))
    with RunStore(tmp_path, {"fingerprint": "a"}) as whole:
        merge(whole)
        assert same(whole.observations(), queries(128))
    assert not list(tmp_path.glob("shards/*/observations.npz"))


def test_queries_of_a_calibration(tmp_path: Path) -> None:
    observed = [queries(9), queries(11, first=100)]
    chosen = choose_queries([7, 8], observed, 8)
    assert len(chosen) == 8
    expected = stacked(
        [take(observed[s - 7], n) for s, n in zip(chosen.seeds, chosen.numbers, strict=True)]
    )
    assert same(chosen.obs, expected)
    chosen.save(tmp_path / "queries.npz")
    again = Queries.load(tmp_path / "queries.npz")
    assert same(again.obs, chosen.obs)
    assert np.array_equal(again.seeds, chosen.seeds)
    assert np.array_equal(again.numbers, chosen.numbers)


def test_an_episode_is_recorded_with_all_that_was_seen(tmp_path: Path) -> None:
    (result,) = evaluate(Looking.small(), task(success_band=0.0), [3], 1, 0, record=True)
    steps = result.trajectory
    assert isinstance(steps, Trajectory)
    assert each(np.shape, steps.obs) == {"state": (19, 5), "image.top": (19, 3, 12, 16)}
    for state, frame in zip(steps.obs["state"], steps.obs["image.top"], strict=True):
        assert np.array_equal(frame, picture(state, frame.shape))
    steps.save(tmp_path / "3.npz")
    again = Trajectory.load(tmp_path / "3.npz")
    assert same(again.obs, steps.obs)
    assert np.array_equal(again.actions, steps.actions)


def test_latency_is_measured_on_rows_of_all_arrays() -> None:
    seen: list[Any] = []

    class Watching(Looking):
        def act(self, obs: Any, noise: Any, branch: Any = None, memory: Any = None) -> Any:
            seen.append(each(lambda array: tuple(array.shape), obs))
            return super().act(obs, noise, branch, memory)

    policy = Watching(Looking.small().config).eval()
    (result,) = evaluate(Looking.small(), task(), [103], 1, 0)
    config = LatencyConfig(warmup=1, repeats=3)
    found = measure(policy, Looking.small(), result.observations, config, "cpu")
    assert found is not None
    assert seen[0] == {"state": (1, 2, 5), "image.top": (1, 2, 3, 12, 16)}
