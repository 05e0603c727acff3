"""Where the time of a run goes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policies import from_reference
from runners.episodes.clock import Clock, process_age_s
from runners.episodes.loop import evaluate
from runners.evaluate.table import _time
from tests.helpers.stock import live_policy
from tests.helpers.toy import ToyTask


def test_the_age_of_a_process_is_known() -> None:
    code = (
        "import time; time.sleep(0.3); from runners.episodes.clock import process_age_s; "
        "print(process_age_s())"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.29 < float(done.stdout) < time.perf_counter() - start + 0.05
    assert process_age_s() > 0


def test_the_parts_add_up_to_the_time_that_passed() -> None:
    task = ToyTask(obs_dim=5, action_dim=3, max_steps=12, success_band=0.0, delay_s=0.01)
    policy = from_reference(live_policy())
    start = time.perf_counter()
    clock = Clock(began=start)
    results = list(evaluate(policy, task, range(4), 2, 0, clock=clock))
    passed = time.perf_counter() - start
    assert len(results) == 4
    assert clock.startup_s > 0.05  # a worker process was started
    assert clock.policy_s > 0.0
    # two environments, 24 steps each of 5 ms on average: the policy has to wait for them
    assert clock.simulator_wait_s > 0.06
    assert clock.latency_s == 0.0
    assert 0.8 * passed < sum(clock.seconds().values()) <= passed + 0.01


def test_start_up_ends_once_and_a_later_process_adds_its_own(tmp_path: Path) -> None:
    path = tmp_path / "time.json"
    path.write_text(json.dumps({"startup_s": 10.0, "policy_s": 5.0}))
    clock = Clock.resume(path)
    clock.began = time.perf_counter() - 2.0
    with clock.waiting():
        pass
    with clock.waiting():
        time.sleep(0.02)
    with clock.acting():
        time.sleep(0.02)
    assert clock.startup_s == pytest.approx(12.0, abs=0.01)
    assert 0.02 <= clock.simulator_wait_s < 1.0
    assert 5.02 <= clock.policy_s < 6.0
    path.write_text(json.dumps(clock.seconds()))
    assert Clock.resume(path).seconds() == clock.seconds()


def test_the_table_says_it_in_one_line() -> None:
    seconds = {
        "startup_s": 12.34, "policy_s": 80.04, "simulator_wait_s": 200.1, "latency_s": 40.0,
    }  # fmt: skip
    assert _time(seconds) == "12.3 s start-up, 80 s policy, 200 s simulators, 40 s latency"
