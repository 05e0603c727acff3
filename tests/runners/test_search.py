"""Searching windows: what they cost, what is found, files of the original tool, mistakes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import accel
from accel import CachePlan, IntervalConfig, PlanError, import_interval
from accel.attach.search import exact_ratio, windows
from policies import load_policy
from runners.cli import CONF, run
from runners.episodes.queries import Queries
from runners.registry import prepare
from runners.search.finalists import best_of
from runners.search.judge import pareto
from tests.helpers.fake_episodes import fake
from tests.helpers.places import DATA, FIXTURES

KITCHEN = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"
FOUR = DATA / "four_integers.json"  # a window that does not fit
WORDS = [
    "runner=search",
    f"task.checkpoint={KITCHEN}",
    "sampler=ddim",
    "sampler.steps=8",
    "threads=1",
    "n_envs=1",
    "logger=none",
    "latency.repeats=2",
    "latency.warmup=0",
    "runner.screen=2",
    "runner.finalists=2",
    "runner.starts=[0]",
]


def test_the_ratio_is_that_of_computed_blocks_and_is_met() -> None:
    def interval(n_blocks: int) -> IntervalConfig:
        return IntervalConfig("interval", 5, 2, 0, n_blocks)

    # rounded down, as in the original, 3 of 8 blocks miss a ratio of 1.3
    assert exact_ratio(100, 8, interval(3)) == pytest.approx(1.214, abs=5e-4)
    assert exact_ratio(100, 8, interval(4)) == pytest.approx(1.307, abs=5e-4)
    assert {w.n_blocks for w in windows(100, 8, 1.3, [2], [5])} == {4}
    for ratio in (1.1, 1.3, 1.5, 1.8):
        for window in windows(100, 8, ratio):
            assert exact_ratio(100, 8, window) >= ratio
            assert window.n_blocks is not None
            if window.n_blocks > 1:
                fewer = IntervalConfig(
                    "interval", window.start, window.interval, 0, window.n_blocks - 1
                )
                assert exact_ratio(100, 8, fewer) < ratio


def test_every_place_is_tried_and_the_interval_as_well() -> None:
    found = windows(100, 8, 1.3, [2, 3], [0, 5])
    assert {w.first_block for w in found if (w.interval, w.start) == (2, 5)} == {0, 1, 2, 3, 4}
    assert {(w.interval, w.start) for w in found} == {(2, 0), (2, 5), (3, 0), (3, 5)}
    assert windows(6, 4, 1.3, [2], [0])  # short samplers work
    for ratio, words in ((2.5, "ratio must be at most 2 with"), (1.0, "must be more than 1")):
        with pytest.raises(ValueError, match=words):
            windows(100, 8, ratio, [2], [0])


def test_the_front_of_cost_and_error() -> None:
    assert pareto([(1, 3), (2, 2), (2, 3), (3, 1), (3, 1)]) == {0, 1, 3, 4}


def test_a_file_of_the_original_tool_is_read(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "cache_step_start": 5,
        "cache_step_interval": 2,
        "cache_block_start": 1,
        "cache_num_blocks": 3,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    assert import_interval(path) == IntervalConfig("interval", 5, 2, 1, 3)
    for wrong, words in (
        (content | {"more": 1}, "must hold exactly cache_step_start"),
        (content | {"cache_num_blocks": 0}, "cache.n_blocks must be at least 1, got 0"),
        (content | {"cache_num_blocks": 1.5}, "must be integers"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(PlanError, match=f"config.json: .*{words}"):
            import_interval(path)
    with pytest.raises(PlanError, match="No such file"):
        import_interval(tmp_path / "nothing.json")


@pytest.fixture
def _queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which the queries of the calibration are there already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        recipe = prepare(compose("config", WORDS)).recipe
    policy = load_policy(KITCHEN)
    obs = np.random.default_rng(0).normal(size=(8, policy.n_obs_steps, policy.obs_dim))
    recipe.folder.mkdir(parents=True)
    Queries(obs.astype(np.float32), np.arange(8), np.zeros(8, int)).save(
        recipe.folder / "queries.npz"
    )


@pytest.mark.usefixtures("_queries")
def test_a_search_from_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    imported = Path("original.json")
    imported.write_text(
        json.dumps(
            {
                "cache_step_start": 1,
                "cache_step_interval": 2,
                "cache_block_start": 0,
                "cache_num_blocks": 1,
            }
        )
    )
    words = [*WORDS, "runner.ratio=[1.3,1.8]", "runner.intervals=[2,4]"]
    assert run([*words, f"runner.imported={imported}"]) == 0
    (folder,) = Path("multirun/main").iterdir()
    content = json.loads((folder / "search.json").read_text())
    finalists = content["finalists"]
    assert len(finalists) == 5
    assert finalists[-1]["start"] == 1
    policy = load_policy(KITCHEN)
    everywhere = {c["first_block"] for tried in content["candidates"].values() for c in tried}
    assert everywhere == {0, 1}
    for tried, ratio in zip(content["candidates"].values(), (1.3, 1.8), strict=True):
        errors = [c["error"] for c in tried]
        assert errors == sorted(errors)
        assert all(c["ratio"] >= ratio for c in tried)
    assert any(f["pareto"] for f in finalists)
    assert all(f["latency"]["p50_ms"] > 0 and f["error_p95"] > 0 for f in finalists)
    assert content["provenance"]["n_queries"] == 8
    plan = CachePlan.load(folder / finalists[0]["plan"])
    assert plan.digest() == finalists[0]["digest"]
    assert plan.policy == content["provenance"]["policy"] != policy.fingerprint()
    said = capfd.readouterr().out
    assert "on the Pareto front" in said
    assert f"python run.py -m task.checkpoint={KITCHEN} sampler=ddim sampler.steps=8" in said
    assert f"cache=plan cache.path={folder / 'finalist_0.json'}," in said
    assert {f.get("success") for f in finalists} == {content["best"]} == {None}
    assert run([*words, f"runner.imported={imported}"]) == 0  # recognised
    assert "Pareto" in capfd.readouterr().out


@pytest.mark.usefixtures("_queries")
def test_finalists_are_chosen_by_success(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []

    def kill(policy: Any, seed: int) -> None:
        if seed == 500006 and not killed:
            killed.append(seed)
            raise KeyboardInterrupt

    played = fake(monkeypatch, kill)
    words = [*WORDS, "runner.ratio=1.3", "runner.intervals=[2]", "runner.episodes=8"]
    assert run(words) == 130
    assert played == list(range(500000, 500006))
    assert run(words) == 0  # what was played is kept
    assert played == [*range(500000, 500008), *list(range(500000, 500008)) * 2]
    (folder,) = Path("multirun/main").iterdir()
    content = json.loads((folder / "search.json").read_text())
    first, second = content["finalists"]
    assert first["success"] == second["success"] == content["plain_success"]
    assert (first["success"]["n_success"], first["success"]["success_rate"]) == (6, 0.75)
    faster = int(np.argmin([f["latency"]["p50_ms"] for f in content["finalists"]]))
    assert content["best"] == faster  # as often, so the faster one
    said = capfd.readouterr().out
    assert "success of 8 without: 0.75" in said
    assert "ms (" in said
    assert said.count("  best") == 1


def test_the_best_finalist_succeeds_most_then_is_fast_then_cheap() -> None:
    def finalist(rate: float, ms: float | None, share: float) -> dict[str, Any]:
        latency = None if ms is None else {"p50_ms": ms}
        return {"success": {"success_rate": rate}, "latency": latency, "flops_share": share}

    assert best_of([finalist(0.5, 1, 0.1), finalist(0.75, 9, 0.5), finalist(0.75, 8, 0.6)]) == 2
    assert best_of([finalist(0.5, None, 0.4), finalist(0.5, None, 0.3)]) == 1
    assert best_of([]) is None


MISTAKES = {
    "runner.episodes=-1": "runner.episodes must be at least 0, got -1",
    "runner.ratio=9": "runner.ratio must be at most",
    "runner.ratio=fast": "runner.ratio must be numbers above 1, got 'fast'",
    "runner.intervals=[1]": "runner.intervals must be numbers from 2, got [1]",
    "runner.screen=0": "runner.screen must be at least 1, got 0",
    "cache=uniform cache.steps=4": "cache must be none with runner=search, got uniform",
    "runner.imported=nothing.json": "nothing.json: ",
    f"runner.imported={FOUR}": "cache.first_block must be from 0 to 1 (2 blocks), got 8",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run([*WORDS, *words.split()]) == 2
    error = capfd.readouterr().err
    assert MISTAKES[words] in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_flops_there_is_no_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    uncounted = replace(accel.FAMILIES["transformer"], costs=None)
    monkeypatch.setitem(accel.FAMILIES, "transformer", uncounted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run(WORDS) == 2
    said = "error: runner=search ranks windows by FLOPs: the FLOPs of a transformer are not known\n"
    assert capfd.readouterr().err == said
