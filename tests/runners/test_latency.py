"""How latency is measured: what is asked when, by which clock, and when it is enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from runners.cli import CONF, validate
from runners.episodes.latency import LatencyConfig, measure
from runners.episodes.two_clocks import Clocks
from runners.evaluate import run as job_module
from runners.registry import prepare
from tests.helpers import fake_episodes
from tests.helpers.fake_episodes import FIXTURE

KITCHEN = ("task=kitchen", f"task.checkpoint={FIXTURE}", "engine=reference")


class Machine:
    """A machine on which a query takes what it is told to, and no time passes else."""

    def __init__(self) -> None:
        self.wall_ns = self.cpu_ns = 0
        self.asked: list[tuple[str, float]] = []

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.wall_ns, lambda: self.cpu_ns)

    @property
    def names(self) -> str:
        return "".join(name for name, _ in self.asked)

    def policy(
        self, name: str, wall_ms: float | Callable[[], float], cpu_ms: float | None = None
    ) -> Any:
        machine = self

        class Policy:
            n_obs_steps, n_action_steps = 2, 4

            def act(self, obs: torch.Tensor, noise: Any) -> torch.Tensor:
                assert obs.shape == (1, 2, 5)
                wall = wall_ms() if callable(wall_ms) else wall_ms
                machine.wall_ns += round(1e6 * wall)
                machine.cpu_ns += round(1e6 * (wall if cpu_ms is None else cpu_ms))
                machine.asked.append((name, float(obs[0, 0, 0])))
                return torch.zeros(1)

        return Policy()

    def measure(
        self, fast: Any, plain: Any, engine: Any = None, device: str = "cpu", **config: Any
    ) -> dict[str, Any]:
        observations = np.arange(7.0)[:, None, None] * np.ones((7, 2, 5))
        config = {"precision": 0.0, "warmup": 1, "max_s": 1e9} | config
        settings = LatencyConfig(**config)
        found = measure(fast, plain, observations, settings, device, engine, self.clocks)
        assert found is not None
        return found


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_policies_are_asked_in_turn(machine: Machine) -> None:
    found = machine.measure(machine.policy("a", 10), machine.policy("b", 20), warmup=2, repeats=6)
    assert machine.names == "abba" + "abba" * 3
    queries = [query for _, query in machine.asked]
    assert queries[::2] == queries[1::2] == [0, 1, 2, 3, 4, 5, 6, 0]
    assert found["samples_ms"] == {"accelerated": [10.0] * 6, "plain": [20.0] * 6}
    assert found["accelerated"]["p50_ms"] == found["accelerated"]["cpu_p50_ms"] == 10
    assert found["accelerated"]["actions_hz"] == 400
    assert (found["warmup"], found["repeats"], found["plain_repeats"]) == (2, 6, 6)
    assert found["stopped"] == "repeats"
    assert found["engine"] is found["engine_ratio"] is None


def test_nothing_is_measured_without_repeats_or_observations() -> None:
    machine = Machine()
    policies = machine.policy("a", 1), machine.policy("b", 1)
    assert measure(*policies, np.zeros((3, 2, 5)), LatencyConfig(2, 0), "cpu") is None
    assert measure(*policies, np.zeros((0, 2, 5)), LatencyConfig(2, 3), "cpu") is None
    assert machine.names == ""


@pytest.mark.parametrize(
    ("plain_ms", "engine_ms", "turns", "rounds"),
    [
        (30, None, 33, 3),  # half of the time each
        (20, 20, 25, 4),
        (5, None, 100, 1),
        (1000, None, 20, 5),  # but twenty plain queries
    ],
)
def test_slow_arms_are_asked_less_often(
    machine: Machine, plain_ms: float, engine_ms: float | None, turns: int, rounds: int
) -> None:
    engine = machine.policy("e", engine_ms) if engine_ms else None
    plain = machine.policy("b", plain_ms)
    found = machine.measure(machine.policy("a", 10), plain, engine, repeats=100)
    assert (found["plain_repeats"], found["repeats"]) == (turns, turns * rounds)
    slow = "be" if engine else "b"
    forth, back = "a" * rounds + slow, slow[::-1] + "a" * rounds
    assert machine.names[1 + len(slow) :].startswith(forth + back + forth)
    queries = [query for _, query in machine.asked][1 + len(slow) :]
    assert queries[0] == queries[rounds] == 1  # the plain policy sees what the first round saw
    assert found["stopped"] == "repeats"


def test_without_warm_up_every_round_has_every_arm(machine: Machine) -> None:
    machine.measure(machine.policy("a", 1), machine.policy("b", 100), warmup=0, repeats=100)
    assert machine.names == "abba" * 50


def test_it_stops_when_the_ratio_is_known(machine: Machine) -> None:
    found = machine.measure(
        machine.policy("a", 10), machine.policy("b", 20), repeats=100, precision=0.05
    )
    assert (found["stopped"], found["plain_repeats"], found["repeats"]) == ("narrow", 10, 20)


def test_and_not_before(machine: Machine) -> None:
    random = np.random.default_rng(0)
    plain = machine.policy("b", lambda: random.uniform(10, 40))
    found = machine.measure(machine.policy("a", 20), plain, repeats=400, precision=0.05)
    low, high = found["times_as_fast_interval"]
    assert found["stopped"] == "narrow"
    assert found["repeats"] % 5 == 0
    assert 30 < found["repeats"] < 400
    assert 0.03 < (high - low) / 2 / found["times_as_fast"] <= 0.05


def test_it_stops_when_the_time_is_over(machine: Machine) -> None:
    found = machine.measure(
        machine.policy("a", 100), machine.policy("b", 100), warmup=50, repeats=1000, max_s=10
    )
    assert found["warmup"] == 10  # a fifth of the time
    assert (found["stopped"], found["repeats"]) == ("max_s", 40)


def test_three_turns_at_least(machine: Machine) -> None:
    found = machine.measure(
        machine.policy("a", 9000), machine.policy("b", 60_000), warmup=10, repeats=100, max_s=10
    )
    assert (found["warmup"], found["stopped"], found["plain_repeats"]) == (1, "max_s", 3)


@pytest.mark.parametrize(
    ("threads", "fast", "plain", "clock"),  # (wall, CPU) ms
    [
        (1, (10, 10), (640, 310), "cpu"),  # others took the time of the plain policy
        (1, (10, 10), (310, 360), "wall"),
        (1, (10, 10), (310, 260), "wall"),
        (1, (20, 10), (400, 310), "cpu"),
        (2, (10, 10), (640, 310), "cpu"),
        (2, (10, 10), (320, 640), "wall"),  # nobody else: two threads, half as long
        (2, (30, 10), (640, 640), "cpu"),  # others took the time of the accelerated policy
    ],
)
def test_the_clock_that_counts(
    machine: Machine,
    threads: int,
    fast: tuple[float, float],
    plain: tuple[float, float],
    clock: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    arms = machine.policy("a", *fast), machine.policy("b", *plain), machine.policy("e", 40, 30)
    found = machine.measure(*arms, repeats=20)
    ratios = dict(zip(("wall", "cpu"), np.divide(plain, fast).tolist(), strict=True))
    assert (found["ratio"], found["cpu_ratio"]) == (ratios["wall"], ratios["cpu"])
    assert (found["clock"], found["times_as_fast"]) == (clock, ratios[clock])
    assert found["times_as_fast_interval"] == [ratios[clock]] * 2
    assert found["engine_ratio"] == {"wall": 40 / fast[0], "cpu": 30 / fast[1]}[clock]
    assert found["engine"]["p50_ms"] == 40
    disagree = max(ratios.values()) > 1.2 * min(ratios.values())
    assert (found["warning"] is not None) == disagree
    if disagree:
        assert f"{ratios['wall']:.3g} times as fast by wall time" in found["warning"]
        assert f"{ratios['cpu']:.3g} by CPU time" in found["warning"]
        assert ("of all 2 threads" in found["warning"]) == (threads == 2)
        assert f"{clock.replace('cpu', 'CPU')} time counts" in found["warning"]


def test_on_a_gpu_wall_time_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[None] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(None))
    fast, plain = machine.policy("a", 10, 5), machine.policy("b", 40, 5)
    found = machine.measure(fast, plain, device="cuda:0", repeats=5)
    assert (found["clock"], found["times_as_fast"], found["warning"]) == ("wall", 4, None)
    assert len(waited) == 2 * len(machine.asked)


def test_the_machine_is_recorded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([(0.5, 0, 0), (2.5, 0, 0)])
    monkeypatch.setattr("os.getloadavg", lambda: next(loads))
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    found = machine.measure(machine.policy("a", 1), machine.policy("b", 1), repeats=2)
    assert found["load"] == {"before": 0.5, "after": 2.5, "cores": 6}
    assert found["cpu"]
    assert json.dumps(found)


def job_of(*words: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return prepare(compose("config", [*KITCHEN, *words]))


@pytest.mark.parametrize(
    ("words", "has_engine"),
    [
        (["cache=none"], False),
        (["cache=none", "realtime.latency_ms=160"], False),
        (["cache=uniform"], True),
        (["cache=none", "sampler=ddim", "sampler.steps=7"], True),
        (["cache=none", "quant=rtn", "quant.min_features=8"], True),
    ],
)
def test_the_plain_arm_is_the_checkpoints_policy(
    words: list[str], has_engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own sampler, and as many actions as the one under test."""
    job = job_of(*words)
    arms: list[Any] = []
    monkeypatch.setattr(job_module, "measure", lambda *given: arms.extend(given))
    fast: Any = SimpleNamespace(keeps_memory=False)
    job_module.latency_of(job, fast, np.zeros((1, 4, 60)))
    assert arms[0] is fast
    plain, engine = arms[1], arms[5] if has_engine else None
    assert len(arms) == (6 if has_engine else 5)
    assert plain.n_inference_steps == 100
    assert plain.n_action_steps == job.policy.n_action_steps
    own = job_of("cache=none").policy.with_n_action_steps(plain.n_action_steps)
    assert plain.fingerprint() == own.fingerprint()
    if engine:
        assert engine.policy is plain
        assert engine.plan.mask.all()


def test_latency_is_no_part_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (one,) = validate(KITCHEN)[0].folders
    more = ("latency.max_s=7", "latency.precision=0.2", "latency.repeats=3", "latency.warmup=0")
    assert validate([*KITCHEN, *more])[0].folders == [one]


def test_an_older_latency_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_episodes.fake(monkeypatch)
    words = ("task=kitchen", "n_episodes=4", "cache=uniform", "cache.steps=7", "videos=0")
    assert fake_episodes.run(monkeypatch, *words) == 0
    (path,) = tmp_path.glob("multirun/main/*/result.json")
    percentiles = {f"p{p}_ms": 1.0 for p in (50, 95, 99)} | {"actions_hz": 8.0}
    conditions = {"batch": 1, "warmup": 1, "repeats": 2, "threads": 1, "device": "cpu"}
    older = {"accelerated": percentiles, "plain": percentiles, "ratio": 2.0, **conditions}
    older["samples_ms"] = {"accelerated": [1.0, 1.0], "plain": [2.0, 2.0]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"latency": older}))
    monkeypatch.setattr(job_module, "measure", lambda *_: pytest.fail("measured again"))
    assert fake_episodes.run(monkeypatch, *words, "latency.repeats=5") == 0
    said = {"times_as_fast": 2.0, "times_as_fast_interval": [2.0, 2.0]}
    assert json.loads(path.read_text())["latency"] == older | said
