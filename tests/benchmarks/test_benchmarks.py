"""The benchmark: what it times computes what it says, and what it prints follows from the times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import busy, calibration_seeds, others, ours
from benchmarks.latency import ARMS, built, main, measure, parser, render, step_costs
from benchmarks.rounds import beside, interleave
from benchmarks.setting import Setting, Unavailable, observations, policy_of_width
from benchmarks.stock import act, stock_policy
from runners.episodes.two_clocks import Clocks, Times
from tests.helpers.places import PROJECT

MEASURED = (
    *("stock", "fused none", "fused uniform", "fused hash_ab", "fused ddim"),
    *("fused none, float32", "fused duquant W8A8"),
    "diffusers TaylorSeer",
)


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    words = ["--rounds", "2", "--warmup", "0", "--arms", *MEASURED, "absent"]
    with pytest.MonkeyPatch.context() as patched, (setting := small()).stack:
        patched.setitem(ARMS, "absent", absent)
        return measure(setting, parser().parse_args(words), threads=1)


def small() -> Setting:
    policy = policy_of_width(64, n_layer=2)
    return Setting(policy, observations(policy, 2), steps=10)


def absent(setting: Setting) -> Any:
    raise Unavailable("no such library; pip install it")


def test_arms_compute_what_they_say(measured: dict[str, Any]) -> None:
    arms = measured["arms"]
    assert arms["fused none"]["deviation"] < 1e-4  # the stock network, all steps
    assert arms["fused uniform"]["deviation"] > 1e-4
    assert 1e-6 < arms["fused none, float32"]["deviation"] < 0.01
    assert 1e-4 < arms["fused duquant W8A8"]["deviation"] < 0.2
    assert "layers take 0.2" in arms["fused duquant W8A8"]["note"]
    assert arms["stock"]["flops_share"] == pytest.approx(1.0)
    assert arms["fused none"]["live_flops_share"] < 1.0
    assert arms["fused uniform"]["flops_share"] < 0.25
    assert arms["fused uniform"]["live_flops_share"] < arms["fused uniform"]["flops_share"]
    forecast = arms["fused hash_ab"]
    assert arms["fused uniform"]["flops_share"] < forecast["flops_share"] < 0.3
    assert forecast["deviation"] > 1e-4
    assert "22 of 200 layers computed" in arms["diffusers TaylorSeer"]["note"]
    assert all(len(arms[name]["samples_ms"]) == 2 for name in MEASURED)


def test_steps_and_program_are_measured(measured: dict[str, Any]) -> None:
    step, program = measured["step"], measured["arms"]["fused none"]
    assert step["linears_ms"] > 0
    assert np.isfinite([step["cached_us"], step["computed_ms"]]).all()  # see step_costs below
    assert 0.5 < program["bytes"] / measured["weight_bytes"] < 2.0
    assert program["build_s"] > 0


def test_the_table_shows_every_arm_and_why_one_is_missing(measured: dict[str, Any]) -> None:
    said = render(measured)
    for name in MEASURED:
        assert said.count(f"\n| {name} ") == 1
    assert said.count("not available: no such library; pip install it") == 1
    assert "times its packed linears alone" in said


def test_the_ddim_arms_agree_and_the_stock_policy_shares_weights() -> None:
    setting = small()
    with setting.stack:
        live = stock_policy(setting.short)
        assert live.model.head.weight.data_ptr() == setting.policy.model.head.weight.data_ptr()
        scale = setting.policy.normalizer.params_dict["action"]["scale"]
        expected = act(live, setting.obs, setting.noise())
        found = ours.fused_ddim(setting).query()
        assert float(((found - expected) * scale).detach().abs().max()) < 1e-4


def test_cache_dit_does_what_our_plan_of_it_does() -> None:
    pytest.importorskip("cache_dit")
    setting = small()
    with setting.stack:
        arm = others.cache_dit(setting)
        expected = ours.fused_first_layer(setting).query()
        for _ in range(2):
            np.testing.assert_allclose(arm.query().numpy(), expected.detach().numpy(), atol=1e-4)


def test_every_round_runs_every_call_in_another_order() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abcd"}
    samples = interleave(calls, rounds=20, warmup=2, seed=0)
    rounds = [tuple(order[i : i + 4]) for i in range(0, len(order), 4)]
    assert len(rounds) == 22
    assert {frozenset(r) for r in rounds} == {frozenset("abcd")}
    assert len(set(rounds)) > 8
    assert all(len(t.wall_ms) == len(t.cpu_ms) == 20 for t in samples.values())


def test_the_interval_of_a_ratio_is_over_rounds() -> None:
    random = np.random.default_rng(0)
    speed = random.uniform(1, 3, 200)  # a machine that is slow in some rounds
    arm = speed * random.uniform(0.9, 1.1, 200)
    slow, fast = (Times(list(ms), list(ms / speed)) for ms in (2 * speed, arm))
    found = beside(slow, fast, threads=1)
    low, high = found["times_as_fast_interval"]
    assert low < found["times_as_fast"] < high
    assert 1.8 < low < 2.0 < high < 2.2
    assert (found["clock"], found["cpu_p50_ms"]) == ("wall", np.median(arm / speed))
    same = beside(fast, fast, threads=1)
    assert [same["times_as_fast"], *same["times_as_fast_interval"]] == [1.0, 1.0, 1.0]


def test_where_the_clocks_disagree_cpu_time_counts(measured: dict[str, Any]) -> None:
    """A machine on which another process takes half of the long call's time."""
    now = {"wall": 0, "cpu": 0}

    def call(wall_ns: int, cpu_ns: int) -> Any:
        return lambda: now.update(wall=now["wall"] + wall_ns, cpu=now["cpu"] + cpu_ns)

    clocks = Clocks(lambda: now["wall"], lambda: now["cpu"])
    calls = {"long": call(2000, 1000), "short": call(10, 10)}
    times = interleave(calls, rounds=3, warmup=1, seed=0, clocks=clocks)
    found = beside(times["long"], times["short"], threads=1)
    assert (found["ratio"], found["cpu_ratio"], found["times_as_fast"]) == (200, 100, 100)
    arms = {"fused none": measured["arms"]["fused none"] | found}
    (line,) = (x for x in render(measured | {"arms": arms}).splitlines() if "100.00 [" in x)
    assert "by CPU time" in line


def test_costs_of_a_step_follow_from_whole_queries() -> None:
    overhead, computed, cached = 5.0, 2.0, 0.1
    samples = {
        "fused none": np.full(3, overhead + 100 * computed),
        "fused uniform": np.full(3, overhead + 10 * computed + 90 * cached),
        "reusing 100": np.full(3, overhead + computed + 99 * cached),
        "reusing 50": np.full(3, overhead + computed + 49 * cached),
        "linears": np.full(3, 1.6),
    }
    costs = step_costs(samples, 100, 10)
    assert costs["cached_us"] == pytest.approx(100)
    assert costs["computed_ms"] == pytest.approx(2.0)
    assert costs["computed_over_linears"] == pytest.approx(2.0 / 1.6)


def test_a_foreign_arm_may_fail_and_ours_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(setting: Setting) -> Any:
        raise KeyError("their fault")

    setting: Any = None
    monkeypatch.setitem(ARMS, "broken", broken)
    with pytest.raises(KeyError):
        built("broken", setting)
    broken.__module__ = others.__name__
    assert built("broken", setting) == "KeyError: 'their fault'"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--rounds", "1"], "--rounds must be at least 2, got 1"),
        (["--width", "100"], "--width must be a multiple of 64, got 100"),
        (["--arms", "stock", "magic"], "--arms must be among stock, "),
        (["--arms", "fused none"], "--arms must name stock or reference none"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    wrong: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*wrong, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_writes_values_and_a_table(tmp_path: Path) -> None:
    words = "--rounds 2 --warmup 0 --batch 1 --width 64 --threads 1 --layers 1 --out out --arms"
    command = [sys.executable, str(PROJECT / "benchmarks/latency.py"), *words.split()]
    done = subprocess.run(
        [*command, "reference none"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "out/latency.json").read_text())
    assert values["rows"][0]["setting"]["baseline"] == "reference none"
    assert values["machine"]["torch"]
    assert (tmp_path / "out/latency.md").read_text() in done.stdout


@pytest.mark.parametrize(("ratios", "code"), [((60.0, 66.0), 0), ((60.0, 90.0), 1)])
def test_a_busy_machine_is_compared_with_a_quiet_one(
    ratios: tuple[float, float],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    others: list[int] = []

    def measure(*_: Any) -> dict[str, Any]:
        mine = psutil.Process().children()
        others.append(sum(child.cmdline()[-1:] == [busy.SPIN] for child in mine))
        value = ratios[len(others) - 1]
        return {
            **{"times_as_fast": value, "times_as_fast_interval": [value, value], "clock": "cpu"},
            **{"ratio": 2 * value, "cpu_ratio": value, "cpu": "a CPU"},
            "load": {"before": 0.0, "after": 2.0, "cores": 2},
        }

    monkeypatch.setattr(busy, "measure", measure)
    assert busy.main(["--others", "1", "--out", str(tmp_path)]) == code
    assert others == [0, 1]
    assert not [c for c in psutil.Process().children() if c.cmdline()[-1:] == [busy.SPIN]]
    said = capsys.readouterr().out
    assert ("they agree within 20 %" in said) == (code == 0)
    assert json.loads((tmp_path / "busy.json").read_text())["busy"]["times_as_fast"] == ratios[1]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--others=-1", "--others must be at least 0, got -1"),
        ("--max-s=0", "latency.max_s must be above 0, got 0.0"),
    ],
)
def test_wrong_options_of_busy(option: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert busy.main([option]) == 2
    assert said in capsys.readouterr().err


def test_plans_of_other_calibrations_are_compared_with_the_first() -> None:
    first, other = np.array([[1, 1], [1, 1], [0, 0], [0, 0]]) > 0, np.zeros((4, 2), bool)
    other[[0, 3]] = True  # of four computed cells two moved
    before, after = np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.3, 0.4])
    cells = calibration_seeds.row(2, 7, (first, other), (before, after)).split(" | ")
    assert cells[:5] == ["| 2", "7", "50%", "50%", "0.3000"]
    assert cells[-1] == "+0.1000 ± 0.0000 |"
    assert calibration_seeds.row(2, 0, (first, first), (before, before)).endswith("| - |")
    assert calibration_seeds.HEADER.count("|") == len(cells) + 1
