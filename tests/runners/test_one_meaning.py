"""One run's FLOPs share, speed-up and verdict, wherever the project shows them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from accel import UniformConfig, flops_share, plain_flops, query_flops, resolve
from policies import load_policy
from runners.formatting import change, changes, rate, rates, share, speed, yes_no
from runners.launch.summary import summary
from runners.report.build import write_report
from runners.studies.comparisons import ReportConfig
from tests.helpers import fake_episodes, wandb_file
from tools.docs_check import table

STUDY = Path("multirun/main")
WORDS = ("n_episodes=40", "engine=fused", "latency.repeats=3", "latency.warmup=1")
CACHED = ("cache=uniform", "cache.steps=20")


@dataclass(frozen=True)
class Seen:
    """What one run of a study says of itself in every place, and its study's tables."""

    result: dict[str, Any]
    terminal: str
    sweep: str
    report: str
    docs: str
    csv: dict[str, str]
    wandb: dict[str, Any]
    show: dict[str, Any]
    shown: str


def play(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    said = io.StringIO()
    with redirect_stdout(said):
        assert fake_episodes.run(monkeypatch, *WORDS, *words) == 0
    return said.getvalue()


def read(pattern: str) -> tuple[Path, dict[str, Any]]:
    (folder,) = STUDY.glob(pattern)
    return folder, json.loads((folder / "result.json").read_text())


def line(text: str, start: str) -> str:
    (found,) = (row for row in text.splitlines() if row.startswith(start))
    return found


@pytest.fixture(scope="module")
def monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """A plain arm that solves 30 of 40 seeds, and a cached one that loses 6 of them."""
    monkeypatch.chdir(tmp_path_factory.mktemp("study"))
    fake_episodes.fake(monkeypatch)
    play(monkeypatch, "cache=none")
    as_plain = fake_episodes.result

    def worse(seed: int, policy: Any) -> Any:
        found = as_plain(seed, policy)
        return replace(found, success=bool(found.success) and seed % 5 != 0)

    monkeypatch.setattr(fake_episodes, "result", worse)
    terminal = play(monkeypatch, *CACHED, "logger=offline")
    shown = play(monkeypatch, "runner=show", *CACHED, "logger=none")
    folder, result = read("kitchen_uniform_*")
    _, show = read("show_*")
    write_report(STUDY, ReportConfig())
    with (STUDY / "report/arms.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if r["run"] == folder.name)
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return Seen(
        result,
        terminal,
        line(summary([folder])[0], "kitchen: uniform"),
        (STUDY / "report/report.md").read_text(),
        line(table("study", STUDY, "kitchen"), "| uniform"),
        row,
        wandb_file.read(path)["summary"],
        show,
        shown,
    )


def test_a_share_of_flops(seen: Seen) -> None:
    """All tokens, over the checkpoint's unaccelerated policy; what the engine ran beside it."""
    policy = load_policy(fake_episodes.FIXTURE)
    plan = resolve(policy, UniformConfig(steps=20))
    found, said = seen.result["flops"], share(flops_share(policy, plan.mask, policy))
    assert found["share"] == query_flops(policy, plan.mask) / plain_flops(policy)
    assert found["plain"] == plain_flops(policy)
    assert found["executed_share"] == found["query"] / found["plain"] < found["share"]
    assert (seen.show["plans"][0]["flops"]["share"], seen.wandb["flops/share"]) == (
        found["share"],
        found["share"],
    )
    assert float(seen.csv["flops_share"]) == found["share"]
    assert f" {said} of the checkpoint's" in line(seen.terminal, "FLOPs ")
    assert f"({said})" in line(seen.shown, "FLOPs a query")
    report = [row for row in seen.report.splitlines() if row.startswith("| 2 uniform")]
    assert any(f"| {said} | {share(found['executed_share'])} |" in row for row in report)
    assert said in seen.sweep
    assert f"| {said} |" in seen.docs
    executed = share(found["executed_share"])
    assert f"({executed})" in line(seen.terminal, "  as run here")
    assert f"({executed})" in line(seen.shown, "  as run by engine=fused")
    assert float(seen.csv["flops_executed_share"]) == found["executed_share"]


def test_times_as_fast(seen: Seen) -> None:
    """As the checkpoint's policy in stock modules, in the same run."""
    latency = seen.result["latency"]
    value, bounds = latency["times_as_fast"], latency["times_as_fast_interval"]
    median = "cpu_p50_ms" if latency["clock"] == "cpu" else "p50_ms"
    plain, fast = (latency[arm][median] for arm in ("plain", "accelerated"))
    assert value == pytest.approx(plain / fast)
    engine = latency["engine_ratio"]
    assert seen.wandb["latency/engine_ratio"] == float(seen.csv["engine_ratio"]) == engine
    assert f" {speed(engine)} as this engine without" in seen.terminal
    assert f"| {speed(value, bounds)} | {speed(engine)} |" in seen.report
    assert f"| {speed(value, bounds)} | {speed(engine)} |" in seen.docs
    assert (seen.wandb["latency/times_as_fast"], float(seen.csv["times_as_fast"])) == (value, value)
    assert float(seen.csv["times_as_fast_high"]) == seen.wandb["latency/times_high"] == bounds[1]
    assert speed(value, bounds) in line(seen.terminal, "  times as fast")
    assert f"| {speed(value, bounds)} |" in seen.report
    assert f"{speed(value)} " in seen.sweep
    assert f"| {speed(value, bounds)} |" in seen.docs


def test_the_verdict(seen: Seen) -> None:
    """Two answers, with one p-value and one interval."""
    found = seen.result["baseline"]
    assert (found["n"], found["wins"], found["losses"]) == (40, 0, 6)
    assert found["p_value"] == found["p_holm"] == pytest.approx(2 / 2**6)
    assert (found["loss_detected"], found["noninferior"]) == (True, False)
    assert (seen.wandb["paired/loss_detected"], seen.wandb["paired/noninferior"]) == (True, False)
    assert (seen.csv["loss_detected"], seen.csv["noninferior"]) == ("True", "False")
    said = changes(found["difference"], found["difference_interval"])
    assert said in line(seen.terminal, "paired")
    verdict = "loss detected (Holm): yes (p = 0.031 over 1); non-inferior at 5 points: no"
    assert verdict in line(seen.terminal, "verdict")
    assert f"| {said} | 0 / 6 | 0.031 | 0.031 | yes | no |" in seen.report
    assert f"| {said} | 0 / 6 | 0.031 | yes | no |" in seen.docs
    assert seen.sweep.split(said)[1].split()[:2] == ["yes", "no"]
    success = rates(seen.result["success_rate"], seen.result["success_interval"])
    for text in (seen.terminal, seen.sweep, seen.report, seen.docs):
        assert success in text


def test_another_runs_p_value_joins_the_verdict(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished run, shown again after another arm was played, is judged as the report does."""
    play(monkeypatch, "cache=uniform", "cache.steps=30")
    again = play(monkeypatch, *CACHED, "logger=offline")
    assert "loss detected (Holm): no (p = 0.062 over 2)" in line(again, "verdict")
    write_report(STUDY, ReportConfig())
    with (STUDY / "report/arms.csv").open() as file:
        found = {r["run"]: r["p_holm"] for r in csv.DictReader(file)}
    assert [float(p) for p in found.values() if p] == [0.0625, 0.0625]


def test_fewer_steps_are_a_share_of_the_checkpoints_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_episodes.fake(monkeypatch)
    words = ("cache=none", "sampler=ddim", "sampler.steps=12")
    terminal = play(monkeypatch, *words)
    _, result = read("kitchen_none_*")
    n = load_policy(fake_episodes.FIXTURE).n_inference_steps
    assert result["flops"]["share"] == pytest.approx(12 / n)
    assert f"{12 / n:.1%} of the checkpoint's unaccelerated policy" in line(terminal, "FLOPs")
    play(monkeypatch, "runner=show", *words)
    _, shown = read("show_*")
    assert shown["plans"][0]["flops"]["share"] == result["flops"]["share"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-0.04, "-0.04"),
        (-0.00084, "-0.001"),
        (0.0, "+0.00"),
        (-0.00004, "-0.00004"),
        (0.005, "+0.01"),
    ],
)
def test_a_bound_that_would_round_to_nothing_gets_more_digits(value: float, said: str) -> None:
    assert change(value) == said


def test_words_of_numbers() -> None:
    assert [rate(v) for v in (1.0, 0.0, 0.9963, 0.0018, 0.837)] == [
        "1.00",
        "0.00",
        "0.996",
        "0.002",
        "0.84",
    ]
    assert [speed(v) for v in (None, 7.384, 36.14, 128.4)] == ["-", "7.38x", "36.1x", "128x"]
    assert [yes_no(v) for v in (True, False, None)] == ["yes", "no", "-"]
    assert [share(v) for v in (0.12, None)] == ["12.0%", "-"]
