"""Observations of several arrays: what a world shows arrives whole, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.pool import EnvPool, Event
from envs.task import EnvError
from skipstep.observations import ObservationSpec, n_rows, take
from tests.envs.test_pool import alive, eventually, one, parent_process, policy
from tests.helpers.picture import PictureTask, picture

SHM = Path("/dev/shm")


def in_this_process(task: PictureTask, seed: int, n: int) -> list[dict[str, Any]]:
    env: Any = task.make_env()
    seen = [env.reset(seed=seed)[0]]
    kept = [{k: v.copy() for k, v in seen[0].items()}]
    for action in policy(seed, 0, n):
        kept.append({k: v.copy() for k, v in env.step(action)[0].items()})
    return kept


def assert_shows(event: Event, expected: list[dict[str, Any]]) -> None:
    assert n_rows(event.obs) == len(expected)
    for i, step in enumerate(expected):
        assert list(event.obs) == list(step)
        for name, array in step.items():
            np.testing.assert_array_equal(take(event.obs, i)[name], array)


@pytest.mark.parametrize("cameras", [("top",), ("top", "wrist")])
def test_pictures_arrive_as_they_were_drawn(cameras: tuple[str, ...]) -> None:
    """Also those of a chunk that is longer than all before it, and after the next one came."""
    task = PictureTask(success_band=0.0, cameras=cameras)
    with EnvPool(task, 2) as pool:
        for seed, length in ((1, 2), (2, 9), (3, 4)):
            expected = in_this_process(task, seed, length)
            for slot in range(2):
                pool.reset(slot, seed)
            ready = answers(pool, 2)
            for slot in range(2):
                pool.step(slot, policy(seed, 0, length))
            chunks = answers(pool, 2)
            for event in ready:
                assert_shows(event, expected[:1])
            for event in chunks:
                assert_shows(event, expected[1:])
    obs = chunks[0].obs
    assert {n: a.dtype.name for n, a in obs.items() if n != "state"} == {
        f"image.{camera}": "uint8" for camera in cameras
    }
    assert obs["state"].dtype == np.float64
    assert len({frame.tobytes() for frame in obs["image.top"]}) == length


def answers(pool: EnvPool, n: int) -> list[Event]:
    found: list[Event] = []
    while len(found) < n:
        found += pool.wait()
    return found


def test_a_chunk_that_the_episode_cut_short() -> None:
    task = PictureTask(max_steps=3, success_band=0.0)
    with EnvPool(task, 1) as pool:
        pool.reset(0, 1)
        one(pool)
        pool.step(0, policy(1, 0, 8))
        event = one(pool)
    assert event.done
    assert event.obs["image.top"].shape == (3, 3, 12, 16)
    np.testing.assert_array_equal(
        event.obs["image.top"][2], picture(event.obs["state"][2], (3, 12, 16))
    )


class Numbers(PictureTask):
    """Two arrays and no picture."""

    @property
    def obs_spec(self) -> ObservationSpec:
        return ObservationSpec.of({"state": self.obs_dim, "environment_state": 2})


def test_arrays_of_numbers_need_no_memory_of_their_own() -> None:
    task = Numbers(cameras=(), instead={"environment_state": np.array([1, 2], np.float32)})
    with EnvPool(task, 1) as pool:
        assert pool._slots[0].frames is None
        pool.reset(0, 1)
        obs = one(pool).obs
    assert {name: (array.shape, array.dtype) for name, array in obs.items()} == {
        "state": ((1, 3), np.float64),
        "environment_state": ((1, 2), np.float64),
    }


FLOATS = np.zeros((3, 12, 16), np.float32)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"image.top": None}, "image.top is missing"),
    "extra": ({"depth": FLOATS}, "depth is not among state, image.top"),
    "type": (
        {"image.top": FLOATS},
        "image.top must be uint8 of shape (3, 12, 16), got float32 of shape (3, 12, 16)",
    ),
    "layout": (
        {"image.top": np.zeros((12, 16, 3), np.uint8)},
        "image.top must be uint8 of shape (3, 12, 16), got uint8 of shape (12, 16, 3)",
    ),
    "length": (
        {"state": np.zeros(4)},
        "state must be numbers of shape (3,), got float64 of shape (4,)",
    ),
    "words": ({"state": "left"}, "state must be numbers of shape (3,), got <U4 of shape ()"),
}


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("kind", WRONG)
def test_a_world_that_shows_something_else_is_told_so(kind: str, step: int) -> None:
    instead, said = WRONG[kind]
    with EnvPool(PictureTask(instead=instead, instead_from=step, success_band=0.0), 1) as pool:
        pool.reset(0, 1)
        if step:
            assert one(pool).kind == "ready"
            pool.step(0, policy(1, 0))
        with pytest.raises(EnvError) as error:
            pool.wait()
    start = "observations of task 'picture' are not what its obs_spec says: "
    assert str(error.value) == start + said


def test_everything_that_differs_is_named() -> None:
    instead = {name: array for found, _ in WRONG.values() for name, array in found.items()}
    with EnvPool(PictureTask(instead={**instead, "image.top": FLOATS[0]}), 1) as pool:
        pool.reset(0, 1)
        with pytest.raises(EnvError, match=r"state must .*; image\.top must .*; depth is not"):
            pool.wait()


def test_a_single_array_where_several_are_said_and_the_other_way_round() -> None:
    spec = ObservationSpec.of({"state": 2, "image.top": (3, 4, 4)})
    assert spec.differences(np.zeros(2)) == [
        "they must be a mapping of state, image.top, got a ndarray"
    ]
    single = ObservationSpec.of({"state": 2})
    assert single.differences({"state": np.zeros(2)}) == ["they must be an array, got a dict"]
    assert single.differences(np.zeros(2)) == single.differences([1, 2]) == []
    assert single.differences(np.zeros(3)) == [
        "state must be numbers of shape (2,), got float64 of shape (3,)"
    ]


def held() -> int:
    """Files of this process that are memory of a pool."""
    found = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(p) and str(SHM) in os.readlink(p) for p in found)


@pytest.mark.parametrize("fault", ["kill", "hang", "raise"])
def test_a_worker_that_breaks_is_replaced_and_leaves_nothing(fault: str, tmp_path: Path) -> None:
    before, names = held(), sorted(os.listdir(SHM))
    broken = PictureTask(fault=fault, fault_marker=str(tmp_path / "broke"), success_band=0.0)
    with EnvPool(broken, 1) as pool:
        pool.reset(0, 7)
        assert one(pool).kind == "ready"
        pool.timeout_s = 1.0
        pool.step(0, policy(7, 0, 6))
        assert one(pool).kind == "error"
        pool.timeout_s = 60.0
        assert held() == before + 1
        pool.reset(0, 7)
        assert_shows(one(pool), in_this_process(broken, 7, 6)[:1])
        pool.step(0, policy(7, 0, 6))
        assert_shows(one(pool), in_this_process(broken, 7, 6)[1:])
        assert sorted(os.listdir(SHM)) == names  # it never has a name
    assert held() == before


PARENT = """
import sys
from envs.pool import EnvPool
from tests.helpers.picture import PictureTask
from tests.envs.test_pool import policy

if __name__ == "__main__":
    with EnvPool(PictureTask(fault="hang", fault_step=9, success_band=0.0), 2) as pool:
        for slot in range(2):
            pool.reset(slot, slot)
        n_ready = 0
        while n_ready < 2:
            n_ready += len(pool.wait())
        pool.step(0, policy(0, 0, 8))
        assert pool.wait()[0].obs["image.top"].shape == (8, 3, 12, 16)
        print(*pool.pids(), flush=True)
        if sys.argv[1:] != ["leave"]:
            pool.step(0, policy(0, 1, 2))
            pool.wait()
"""


@pytest.mark.parametrize("how", ["killed", "interrupted", "left"])
def test_nothing_is_left_of_a_parent_that_ends(how: str) -> None:
    """No file, no worker, and nobody complains of memory that somebody else forgot."""
    names = sorted(os.listdir(SHM))
    source = PARENT.replace("sys.argv[1:]", '["leave"]') if how == "left" else PARENT
    with parent_process(source) as (program, pids):
        if how == "killed":
            assert len(pids) == 2
            program.kill()
        elif how == "interrupted":
            os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=30)
        assert eventually(lambda: not any(map(alive, pids)))
    assert sorted(os.listdir(SHM)) == names
    assert "resource_tracker" not in errors
    assert (errors == "") == (how != "interrupted"), errors


def test_no_room_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with EnvPool(PictureTask(size=384), 1) as pool:
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match=r"^/dev/shm has no room .* 1 steps \(0.4 MB\): No space"):
            pool.reset(0, 1)
