"""The pool keeps its promises when workers raise, hang, are killed, or lose their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from envs.limits import available_memory_mb, resolve_n_envs
from envs.pool import EnvPool, Event
from envs.task import EnvError, FloatArray
from tests.helpers.places import PROJECT
from tests.helpers.toy import FRAME, ToyTask

ROOT = PROJECT


def policy(seed: int, step: int, k: int = 4) -> FloatArray:
    return np.random.default_rng((seed, step)).normal(size=(k, 2))


def run_episodes(pool: EnvPool, seeds: list[int], k: int = 4) -> dict[int, list[FloatArray]]:
    """Run each seed to its end, retrying after errors; return the chunks of each."""
    waiting = list(reversed(seeds))
    now: dict[int, int] = {}
    chunks: dict[int, list[FloatArray]] = {}
    for slot in range(min(pool.n_envs, len(seeds))):
        now[slot] = waiting.pop()
        pool.reset(slot, now[slot])
    while now:
        for event in pool.wait():
            seed = now[event.slot]
            if event.kind == "error":
                pool.reset(event.slot, seed)
                continue
            if event.kind == "ready":
                chunks[seed] = []
            chunks[seed].append(np.c_[event.obs, np.resize(event.rewards, len(event.obs))])
            if not event.done:
                pool.step(event.slot, policy(seed, len(chunks[seed]), k))
            elif waiting:
                now[event.slot] = waiting.pop()
                pool.reset(event.slot, now[event.slot])
            else:
                del now[event.slot]
    return chunks


def one(pool: EnvPool) -> Event:
    (event,) = pool.wait()
    return event


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition: Callable[[], bool], patience_s: float = 15.0) -> bool:
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def parent_process(source: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A real program with a pool, in a session of its own; its first line of output is the pids."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        assert program.stdout is not None
        yield program, [int(pid) for pid in program.stdout.readline().split()]
    finally:
        program.kill()
        program.wait()


def test_an_episode_does_not_depend_on_the_number_of_workers() -> None:
    seeds = list(range(12))
    results = []
    for n_envs in (1, 3):
        with EnvPool(ToyTask(delay_s=0.002), n_envs) as pool:
            results.append(run_episodes(pool, seeds))
    for seed in seeds:
        assert len(results[0][seed]) == len(results[1][seed])
        for first, second in zip(results[0][seed], results[1][seed], strict=True):
            np.testing.assert_array_equal(first, second)
    assert {len(chunks[-1]) for chunks in results[0].values()} > {4}


def test_a_chunk_stops_with_the_episode() -> None:
    with EnvPool(ToyTask(max_steps=6, obs_dim=5, success_band=0.0), 1) as pool:
        pool.reset(0, 1)
        ready = one(pool)
        assert (ready.kind, ready.obs.shape, ready.rewards.shape) == ("ready", (1, 5), (0,))
        pool.step(0, np.ones((4, 2)))
        first = one(pool)
        pool.step(0, np.ones((4, 2)))
        last = one(pool)
    assert (first.obs.shape, first.rewards.shape, first.done) == ((4, 5), (4,), False)
    assert (last.obs.shape, last.rewards.shape, last.done) == ((2, 5), (2,), True)
    assert last.obs.dtype == np.float64
    assert last.info == {"n_visits": 0}


def test_wrong_order_is_refused() -> None:
    with EnvPool(ToyTask(max_steps=2, success_band=0.0), 1) as pool:
        with pytest.raises(RuntimeError, match="nothing to wait for"):
            pool.wait()
        with pytest.raises(RuntimeError, match="cannot step slot 0: it is not reset"):
            pool.step(0, np.zeros((1, 2)))
        pool.reset(0, 1)
        with pytest.raises(RuntimeError, match="cannot reset slot 0: it is busy"):
            pool.reset(0, 1)
        with pytest.raises(RuntimeError, match="cannot step slot 0: it is busy"):
            pool.step(0, np.zeros((1, 2)))
        one(pool)
        for shape in ((2,), (1, 3), (0, 2)):
            with pytest.raises(ValueError, match=r"actions must have shape \(k, 2\), got"):
                pool.step(0, np.zeros(shape))
        pool.step(0, np.zeros((9, 2)))
        assert one(pool).done
        with pytest.raises(RuntimeError, match="cannot step slot 0: it is done"):
            pool.step(0, np.zeros((1, 2)))
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.reset(0, 1)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("raise", "RuntimeError: the toy broke"),
        ("kill", "worker died (exit code -9)"),
        ("exit", "worker died (exit code 3)"),
    ],
)
def test_a_broken_episode_is_an_event_and_the_slot_goes_on(
    fault: str, text: str, tmp_path: Path
) -> None:
    task = ToyTask(fault=fault, fault_seed=7, fault_marker=str(tmp_path / "broke"))
    with EnvPool(task, 2) as pool:
        before = pool.pids()
        pool.reset(0, 7)
        assert one(pool).kind == "ready"
        pool.step(0, policy(7, 0))
        event = one(pool)
        assert event.kind == "error"
        assert text in (event.error or "")
        with pytest.raises(RuntimeError, match="not reset"):
            pool.step(0, policy(7, 0))
        after = pool.pids()
        assert after[0] != before[0]
        assert after[1] == before[1]
        broken = run_episodes(pool, [7, 8])
    with EnvPool(ToyTask(), 1) as pool:
        whole = run_episodes(pool, [7, 8])
    for seed in (7, 8):
        np.testing.assert_array_equal(np.concatenate(broken[seed]), np.concatenate(whole[seed]))


def test_workers_killed_from_outside_are_replaced() -> None:
    task = ToyTask(delay_s=0.01, success_band=0.0)
    with EnvPool(task, 2) as pool:
        pool.reset(0, 1)
        pool.reset(1, 2)
        while len([s for s in pool._slots if s.state == "running"]) < 2:
            pool.wait()
        os.kill(pool.pids()[0], signal.SIGKILL)  # idle between two requests
        assert eventually(lambda: not alive(pool.pids()[0]))
        pool.step(0, policy(1, 0))
        assert one(pool).error == "worker died (exit code -9)"
        os.kill(pool.pids()[0], signal.SIGKILL)  # not even reset
        assert eventually(lambda: not pool._slots[0].process.is_alive())
        pool.reset(0, 1)
        assert one(pool).kind == "ready"
        pool.step(0, np.zeros((20, 2)))
        os.kill(pool.pids()[0], signal.SIGKILL)  # in the middle of a chunk
        assert one(pool).error == "worker died (exit code -9)"
        pool.step(1, policy(2, 0))
        assert one(pool).kind == "chunk"


@pytest.mark.parametrize("fault", ["hang", "spin"])
def test_silence_is_an_error_and_the_worker_is_killed(fault: str) -> None:
    """Of one that sleeps, and of one that runs for ever."""
    with EnvPool(ToyTask(fault=fault, fault_step=1), 1, timeout_s=60.0) as pool:
        pool.reset(0, 1)
        assert one(pool).kind == "ready"
        pool.timeout_s = 0.3
        pool.step(0, policy(1, 0))
        (pid,) = pool.pids()
        event = one(pool)
        assert (event.kind, event.error) == ("error", "no answer in 0.3 s")
        assert eventually(lambda: not alive(pid))


@pytest.fixture
def crowded(request: pytest.FixtureRequest) -> Iterator[int]:
    """A CPU that four other processes keep busy."""
    cpu = min(os.sched_getaffinity(0))
    words = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(words) for _ in range(4)]
    for other in others:
        os.sched_setaffinity(other.pid, {cpu})
    yield cpu
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="what a process had is read from /proc")
def test_a_worker_that_waits_for_a_busy_cpu_is_not_given_up(crowded: int) -> None:
    """It works for a second, which takes five there; one that sleeps as long is given up."""
    with EnvPool(ToyTask(fault="work", fault_step=1), 1, timeout_s=60.0) as pool:
        pool.reset(0, 1)
        assert one(pool).kind == "ready"
        os.sched_setaffinity(pool.pids()[0], {crowded})
        pool.timeout_s = 1.5
        pool.step(0, policy(1, 0))
        start = time.monotonic()
        assert one(pool).kind == "chunk"
        assert time.monotonic() - start > pool.timeout_s


def test_actions_that_are_not_finite_end_the_episode() -> None:
    with EnvPool(ToyTask(), 1) as pool:
        pool.reset(0, 1)
        one(pool)
        pool.step(0, np.full((1, 2), np.nan))
        assert "actions must be finite" in (one(pool).error or "")


def test_an_environment_that_cannot_be_built_stops_everything() -> None:
    with EnvPool(ToyTask(build_fault="raise"), 2) as pool:
        pool.reset(0, 1)
        with pytest.raises(EnvError, match="cannot build task 'toy': RuntimeError: the toy") as e:
            pool.wait()
        assert "Traceback" in e.value.__notes__[0]


def test_workers_that_die_while_building_are_not_replaced_for_ever() -> None:
    with EnvPool(ToyTask(build_fault="exit"), 1) as pool:
        for _ in range(3):
            pool.reset(0, 1)
            assert one(pool).error == "worker died (exit code 3)"
        pool.reset(0, 1)
        with pytest.raises(EnvError, match=r"no worker .* worker died \(exit code 3\)"):
            pool.wait()


@pytest.mark.parametrize("state", ["idle", "hanging", "stopped"])
def test_close_never_hangs(state: str) -> None:
    pool = EnvPool(ToyTask(fault="hang" if state == "hanging" else None, fault_step=1), 2)
    pool.reset(0, 1)
    one(pool)
    pids = pool.pids()
    if state == "hanging":
        pool.step(0, policy(1, 0))
    if state == "stopped":
        os.kill(pids[0], signal.SIGSTOP)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < {"idle": 2.0, "hanging": 4.0, "stopped": 6.0}[state]
    assert not any(map(alive, pids))
    pool.close()


def test_a_worker_whose_answer_is_left_unread_ends_quietly() -> None:
    """Closing a pipe with something unread in it resets the connection instead of ending it."""
    pool = EnvPool(ToyTask(), 1)
    pool.reset(0, 7)
    (slot,) = pool._slots
    assert slot.conn.poll(60)
    pool.close()
    assert slot.process.exitcode == 0


def test_a_video_is_written_and_changes_nothing(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "new folder" / "episode.mp4"
    with EnvPool(ToyTask(max_steps=6), 1) as pool:
        outcomes = []
        for video in (None, path, None):
            pool.reset(0, 1, video)
            one(pool)
            pool.step(0, policy(1, 0, k=9))
            outcomes.append(one(pool))
    assert [e.video for e in outcomes] == [None, str(path), None]
    for event in outcomes:
        np.testing.assert_array_equal(event.obs, outcomes[0].obs)
    assert list(path.parent.iterdir()) == [path]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 10.0
    assert len(frames) == 1 + len(outcomes[1].obs)
    height, *rest = frames[0].shape  # below the picture stand task, seed and step
    assert height > FRAME[0]
    assert tuple(rest) == FRAME[1:]


SPINNING = """
from envs.pool import EnvPool
from tests.helpers.toy import ToyTask

if __name__ == "__main__":
    with EnvPool(ToyTask(fault="hang", fault_step=1), 3) as pool:
        for slot in range(2):
            pool.reset(slot, slot)
        n_ready = 0
        while n_ready < 2:
            n_ready += len(pool.wait())
        pool.step(0, [[0.0, 0.0]])
        print(*pool.pids(), flush=True)
        pool.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to kill a stopped process")
def test_a_stopped_worker_does_not_outlive_its_parent() -> None:
    with parent_process(SPINNING) as (program, pids):
        parents = {int(Path(f"/proc/{p}/stat").read_text().split()[3]) for p in pids}
        os.kill(pids[0], signal.SIGSTOP)
        program.kill()
        assert eventually(lambda: not any(map(alive, [*pids, *parents])))


def test_a_killed_parent_leaves_no_worker_behind() -> None:
    with parent_process(SPINNING) as (program, pids):
        assert len(pids) == 3
        assert all(map(alive, pids))
        parents = {int(Path(f"/proc/{p}/stat").read_text().split()[3]) for p in pids}
        program.kill()
        program.wait()
        assert eventually(lambda: not any(map(alive, [*pids, *parents])))


def test_ctrl_c_ends_the_workers_quietly() -> None:
    with parent_process(SPINNING) as (program, pids):
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=15)
        assert program.returncode == -signal.SIGINT
        assert errors.count("KeyboardInterrupt") == 1
        assert not any(map(alive, pids))


STARTING = SPINNING.replace("n_ready = 0", "print(*pool.pids(), flush=True); n_ready = 0")


def test_ctrl_c_while_workers_start_is_quiet() -> None:
    with parent_process(STARTING) as (program, pids):
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=15)
        assert errors.count("Traceback") == 1
        assert not any(map(alive, pids))


def test_workers_use_one_thread_and_the_parent_keeps_its_environment() -> None:
    before = dict(os.environ)
    with EnvPool(ToyTask(), 1) as pool:
        pool.reset(0, 1)
        one(pool)
        # the worker's own two: its loop, and the one that watches the parent
        assert len(list(Path(f"/proc/{pool.pids()[0]}/task").iterdir())) == 2
    assert dict(os.environ) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_n_envs_auto_is_limited_by_episodes_cores_memory_and_max_envs() -> None:
    n_cores = len(os.sched_getaffinity(0))
    assert resolve_n_envs("auto", 1000, memory_mb=1) == min(n_cores, 16)
    assert resolve_n_envs("auto", 1000, memory_mb=1, max_envs=1) == 1
    assert resolve_n_envs("auto", 1, memory_mb=1) == 1
    assert resolve_n_envs("auto", 0, memory_mb=1) == 1
    assert resolve_n_envs("auto", 1000, memory_mb=10**9) == 1
    assert resolve_n_envs("auto", 1000, memory_mb=1, policy_batch=n_cores + 3) == n_cores + 3
    assert resolve_n_envs("auto", 1000, memory_mb=1, max_envs=2, policy_batch=8) == 2


def test_an_explicit_n_envs_is_taken_or_refused() -> None:
    assert resolve_n_envs(3, 1000, memory_mb=10**9) == 3
    assert resolve_n_envs(16, 5, memory_mb=1) == 5
    for wrong in (0, -1, 17, 64):
        with pytest.raises(ValueError, match=rf"n_envs must be .* max_envs=16, got {wrong}$"):
            resolve_n_envs(wrong, 5, memory_mb=1)
    with pytest.raises(ValueError, match=r"n_envs must be .* got 'many'"):
        resolve_n_envs("many", 5, memory_mb=1)  # type: ignore[arg-type]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_memory_is_what_the_machine_and_every_group_above_us_leave(tmp_path: Path) -> None:
    gib = 1024**3
    group = "sys/fs/cgroup/jobs"
    write(tmp_path, {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:  4194304 kB\n"})
    assert available_memory_mb(tmp_path) == 4096
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/jobs/mine\n",
            f"{group}/memory.max": f"{3 * gib}\n",
            f"{group}/memory.current": f"{2 * gib}\n",
            f"{group}/memory.stat": f"anon 5\ninactive_file {gib}\n",
            f"{group}/mine/memory.max": "max\n",
        },
    )
    assert available_memory_mb(tmp_path) == 2048


def test_memory_under_a_version_1_group(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/1"
    write(
        tmp_path,
        {
            "proc/meminfo": "MemAvailable:  4194304 kB\n",
            "proc/self/cgroup": "9:cpu:/x\n4:memory:/docker/1\n",
            f"{group}/memory.limit_in_bytes": f"{1024**3}\n",
            f"{group}/memory.usage_in_bytes": f"{512 * 1024**2}\n",
            f"{group}/memory.stat": "total_inactive_file 0\n",
        },
    )
    assert available_memory_mb(tmp_path) == 512
