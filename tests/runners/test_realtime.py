"""Latency in the loop: what acts when, drawn by seed, whatever the number of environments."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from envs import make_task
from runners.cli import CONF, validate
from runners.episodes.loop import evaluate
from runners.episodes.realtime import Delays, Timeline
from runners.errors import UserError
from runners.jobs.delays import RealtimeConfig, delay_steps, delays_of
from runners.registry import prepare
from tests.helpers import fake_episodes
from tests.helpers.fake_episodes import FIXTURE
from tests.runners.test_evaluate import SEEDS, facts, toy, toy_policy

CHUNK = 8
KITCHEN = ("task=kitchen", f"task.checkpoint={FIXTURE}")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("latency_ms", "hz", "steps"),
    [(0, 20, 0), (1, 12.5, 1), (80, 12.5, 1), (81, 12.5, 2), (550, 20, 11), (1365, 12.5, 18)],
)
def test_a_delay_is_rounded_up(latency_ms: float, hz: float, steps: int) -> None:
    assert delay_steps(latency_ms, hz) == steps


def played(
    delays: list[int], lead: int, n_queries: int, n_actions: int = CHUNK
) -> tuple[list[float], list[int]]:
    """Actions by step, each of them the step it was meant for; and the steps of the queries."""
    timeline = Timeline(lambda query: delays[query % len(delays)], lead, lambda last: last + 0.5)
    done: list[float] = []
    asked: list[int] = []
    for _ in range(n_queries):
        asked.append(len(done))
        chunk = len(done) + np.arange(n_actions, dtype=np.float64)[:, None]
        done += timeline.execute(chunk)[:, 0].tolist()
    return done, asked


@pytest.mark.parametrize("delay", [0, 1, 2, 4])
def test_a_short_delay_drops_the_actions_that_come_too_late(delay: int) -> None:
    done, asked = played([delay], delay, 6)
    assert done == list(range(len(done)))  # no gap: the old chunk lasts until the new one comes
    assert set(np.diff(asked)) == {CHUNK - delay}
    done, asked = played([delay], delay, 6, CHUNK + delay)
    assert done == list(range(len(done)))
    assert set(np.diff(asked)) == {CHUNK}  # as n_latency_steps has it


@pytest.mark.parametrize(
    ("delays", "lead"), [([5], 5), ([8], 8), ([11], 11), ([1, 6, 2], 2), ([3, 1], 3)]
)
def test_what_acts_is_the_newest_answer_and_then_the_robot_holds(
    delays: list[int], lead: int
) -> None:
    done, asked = played(delays, lead, 7)
    came = [q + (delays[k % len(delays)] if k else 0) for k, q in enumerate(asked)]
    assert all(q >= before for q, before in zip(asked[1:], came, strict=False))  # one at a time
    for step, action in enumerate(done):
        newest = max(q for q, at in zip(asked, came, strict=True) if at <= step)
        last = newest + CHUNK - 1
        assert action == (step if step <= last else last + 0.5)
    assert (max(delays) > CHUNK // 2) == any(a % 1 for a in done)


def test_what_holding_is() -> None:
    action = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -1.0])
    assert make_task("lift").hold(action).tolist() == [0, 0, 0, 0, 0, 0, -1.0]
    pose = np.arange(10.0)
    assert np.array_equal(make_task("lift", abs_action=True).hold(pose), pose)
    joints = np.arange(9.0)
    assert np.array_equal(make_task("kitchen").hold(joints), joints)
    assert not make_task("kitchen", abs_action=False).hold(joints).any()


def test_delays_are_drawn_by_seed() -> None:
    delays = Delays((1, 1, 1, 4), "")
    drawn = [delays.of(0, seed, query) for seed in range(50) for query in range(4)]
    assert drawn == [delays.of(0, seed, query) for seed in range(50) for query in range(4)]
    assert 0.15 < Counter(drawn)[4] / len(drawn) < 0.35
    assert drawn != [delays.of(1, seed, query) for seed in range(50) for query in range(4)]
    assert delays.lead == 4
    assert Delays((1,) * 99 + (9,), "").lead == 1


def test_episodes_with_delays_do_not_depend_on_n_envs() -> None:
    policy = toy_policy()

    def run(n_envs: int, delays: Delays | None, **toys: Any) -> dict[int, tuple[Any, ...]]:
        task = toy(**toys)
        return facts({r.seed: r for r in evaluate(policy, task, SEEDS, n_envs, 0, delays=delays)})

    some = Delays((1, 2, 3, 5), "")
    alone = run(1, some)
    assert run(3, some, delay_s=0.01) == alone
    assert run(4, some) == alone
    plain = run(3, None)
    assert run(3, Delays((0,), "")) == plain
    assert alone != plain
    assert sum(f[4] for f in alone.values()) > sum(f[4] for f in plain.values())  # more queries


def recorded(folder: Path, *samples: float) -> Path:
    folder.mkdir(parents=True)
    latency = {"samples_ms": {"accelerated": samples, "plain": [1000.0]}}
    (folder / "result.json").write_text(json.dumps({"latency": latency}))
    return folder


def test_where_delays_come_from() -> None:
    own = recorded(Path("own"), 30.0, 90.0)
    other = recorded(Path("other"), 10.0, 20.0)
    nothing = RealtimeConfig()
    assert delays_of(nothing, 12.5, own) is None
    assert delays_of(RealtimeConfig(False, latency_ms=99.0), 12.5, own) is None
    fixed = delays_of(RealtimeConfig(latency_ms=163.0), 12.5, Path("none"))
    assert fixed
    assert fixed.steps == (3,)
    assert fixed.said == "3 steps at 12.5 Hz (163 ms)"
    drawn = delays_of(RealtimeConfig(True), 12.5, own)
    assert drawn
    assert drawn.steps == (1, 2)
    assert "1 steps: 50%, 2 steps: 50% at 12.5 Hz (p50 60 ms, p95 87)" in drawn.said
    named = delays_of(RealtimeConfig(from_=str(other)), 12.5, own)
    assert named
    assert named.steps == (1,)
    with pytest.raises(UserError, match="or the same run without it"):
        delays_of(RealtimeConfig(True), 12.5, Path("none"))
    with pytest.raises(UserError, match="must be a finished run with latencies, got none"):
        delays_of(RealtimeConfig(from_="none"), 12.5, own)


def test_the_delay_is_part_of_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_episodes.fake(monkeypatch)
    words = ("-m", "n_episodes=4", "cache=none")
    both = ("realtime=false,true", "realtime.latency_ms=90")
    assert fake_episodes.run(monkeypatch, *words, *both) == 0
    said = capsys.readouterr().out
    assert "delay 2 steps at 12.5 Hz (90 ms)" in (
        " ".join(row.split()) for row in said.splitlines()
    )
    assert "kitchen: none, delay 2 " in said
    assert "against the unaccelerated policy on 4 seeds" in said
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *words[1:], "realtime.latency_ms=150") == 0
    assert not played  # two steps as well
    results = [json.loads(path.read_text()) for path in Path("multirun/main").glob("*/result.json")]
    (result,) = (r for r in results if "realtime" in r)
    assert result["realtime"]["delay_steps"] == "2"
    assert result["baseline"]["folder"].startswith("kitchen_none_none_s0_")


@pytest.mark.parametrize(("latency_ms", "n_actions"), [(0, 8), (80, 9), (400, 13), (1000, 13)])
def test_the_policy_returns_what_comes_too_late_besides(latency_ms: int, n_actions: int) -> None:
    """Horizon 16 with 4 observations has room for 13."""
    words = [*KITCHEN, f"realtime.latency_ms={latency_ms}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = prepare(compose("config", words))
    assert job.policy.n_action_steps == n_actions
    assert job.baseline_name == validate([*KITCHEN, "cache=none"])[0].folders[0].name


def test_a_run_without_delays_is_what_it_was() -> None:
    (plain,), (off,) = (
        validate(["n_episodes=4", *KITCHEN, *more])[0].folders
        for more in ([], ["realtime.enabled=false", "realtime.latency_ms=90"])
    )
    assert plain == off


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["realtime.latency_ms=-1"], "realtime.latency_ms must be at least 0, got -1"),
        (["realtime.latency_ms=9", "realtime.from=x"], "exclude each other"),
        (["realtime.hz=3"], "realtime.hz: unknown key"),
        (["realtime.latency_ms=9", "runner=calibrate"], "realtime needs runner=evaluate"),
        (["shard=1/2", "runner=calibrate"], "shard needs runner=evaluate, got runner=calibrate"),
        (["shard=3/2"], "shard must be i/n with i from 1 to n, got '3/2'"),
        (["shard=1/2", "force=true"], "force must be false with shard"),
    ],
)
def test_mistakes(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        validate([*KITCHEN, *words])
    assert said in str(error.value)
