"""Calibrations on the command line: made once, shared, whole after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from accel import CACHES, Calibration
from policies import load_policy
from runners.acceleration.calibration import find
from runners.cli import run as run_cli
from runners.episodes.queries import Queries, TooFewQueriesError, choose_queries, spread
from runners.jobs.calibration_choice import Recipe
from runners.jobs.settings import CalibrationChoice
from tests.helpers import calibrated_run
from tests.helpers.here import run_here
from tests.helpers.places import FIXTURES

KITCHEN = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"
SMALL = [
    f"task.checkpoint={KITCHEN}",
    "task.max_steps=16",
    "sampler=ddim",
    "sampler.steps=8",
    "n_episodes=1",
    "n_envs=2",
    "threads=1",
    "videos=0",
    "logger=none",
    "latency.repeats=0",
    "calibration.n_queries=8",
    "calibration.n_episodes=4",
]
TOY = ["cache=none", "cache.name=toy"]


def command(*overrides: str) -> list[str]:
    return [sys.executable, calibrated_run.__file__, *SMALL, *overrides]


def run(folder: Path, *overrides: str) -> str:
    """In this process, with the small method; what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CACHES, "toy", None)  # taken out again
        calibrated_run.register(CACHES)
        return run_here(folder, *SMALL, *overrides)


def calibration_folder(root: Path) -> Path:
    (folder,) = (root / "multirun/calibrations").iterdir()
    return folder


def results(root: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(root.glob("multirun/main/*/result.json"))]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calm")
    (folder / "said").write_text(run(folder, "runner=calibrate"))
    return folder


def test_a_calibration_is_made_of_real_queries_and_said(calm: Path) -> None:
    folder, (result,) = calibration_folder(calm), results(calm)
    found, queries = Calibration.load(folder), Queries.load(folder / "queries.npz")
    policy = load_policy(KITCHEN)
    found.check(policy.with_sampler("ddim", 8))
    assert result["calibration"] == {
        "path": str((folder / "calibration.json").relative_to(calm)),
        "digest": found.digest(),
    }
    assert sorted(set(queries.seeds.tolist())) == [300000, 300001, 300002, 300003]
    assert queries.numbers.tolist() == [0, 1] * 4  # 16 steps, 8 actions each
    assert found.source["seeds"] == queries.seeds.tolist()
    assert np.unique(queries.obs, axis=0).shape == (8, 4, 60)
    said = (calm / "said").read_text()
    names = sorted(result["volatility"], key=lambda name: -result["volatility"][name])[:5]
    for words in (*names, result["calibration"]["path"], "peak memory"):
        assert words in said
    assert not list(calm.rglob("*.tmp"))


def test_a_finished_calibration_is_recognised_and_measures_a_cache(calm: Path) -> None:
    written = (calibration_folder(calm) / "calibration.json").stat().st_mtime_ns
    assert "finished already" in run(calm, "runner=calibrate")
    said = run(calm, "runner=calibrate", *TOY, "+cache.steps=3")
    assert "calibrated already" in said
    assert "worst site 1" in said
    (folder,) = calm.glob("multirun/main/calibrate_kitchen_toy_*")
    content = json.loads((folder / "branch_errors.json").read_text())
    errors = json.loads((folder / "result.json").read_text())["branch_errors"]
    assert np.shape(content["error"]) == np.shape(content["hits"]) == (8, 6)
    assert not np.any(content["error"][0])
    assert np.sum(content["error"]) > 0
    assert 0 < errors["action_rms_mean"] <= errors["action_rms_p95"]
    assert errors["hit_share"] == np.mean(content["hits"])
    assert (calibration_folder(calm) / "calibration.json").stat().st_mtime_ns == written


def test_budgets_share_one_calibration_that_the_sweep_makes(calm: Path, tmp_path: Path) -> None:
    said = run(tmp_path, "-m", *TOY, "+cache.steps=3,6", "n_envs=1")
    assert said.count("calibrating in") == 1
    assert said.count("calibrated already") == 1
    digest = Calibration.load(calibration_folder(calm)).digest()
    assert calibration_folder(tmp_path).name == calibration_folder(calm).name
    found = results(tmp_path)
    assert {r["calibration"]["digest"] for r in found} == {digest}
    assert len({r["fingerprint"] for r in found}) == 2
    kept = [p.read_text() for p in sorted(tmp_path.glob("multirun/main/*/plan.txt"))]
    assert kept == [r["stats"]["plan"] for r in found]
    assert found[0]["flops"]["share"] != found[1]["flops"]["share"]


def test_a_calibration_can_be_named(calm: Path, tmp_path: Path) -> None:
    path = calibration_folder(calm)
    run(tmp_path, *TOY, f"calibration={path}")
    (result,) = results(tmp_path)
    assert result["calibration"]["path"] == str(path / "calibration.json")
    assert result["calibration"]["digest"] == Calibration.load(path).digest()
    assert not (tmp_path / "multirun/calibrations").exists()


def test_a_killed_calibration_is_made_again(calm: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("runner=calibrate"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "STOP_BEFORE": "calibrate"},
    )
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("multirun/calibrations/*/queries.npz")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert not (calibration_folder(tmp_path) / "calibration.json").exists()
    run(tmp_path, "runner=calibrate")
    again, first = calibration_folder(tmp_path), calibration_folder(calm)
    assert Calibration.load(again).digest() == Calibration.load(first).digest()


def test_two_processes_make_one(calm: Path, tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            command(*TOY, f"study={study}"), cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        for study in ("a", "b")
    ]
    said = "".join(process.communicate(timeout=150)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("calibrating in") == 1
    digest = Calibration.load(calibration_folder(calm)).digest()
    assert Calibration.load(calibration_folder(tmp_path)).digest() == digest


def test_a_damaged_calibration_is_not_found(
    calm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(CalibrationChoice(), "kitchen", {})
    policy = load_policy(KITCHEN)
    policy = policy.with_sampler("ddim", 8)
    assert find(recipe, policy) is None
    there = Calibration.load(calibration_folder(calm))
    there.save(recipe.folder)
    found = find(recipe, policy)
    assert found is not None
    assert found.digest() == there.digest()
    (recipe.folder / "calibration.safetensors").write_bytes(b"cut off")
    os.utime(recipe.folder / "calibration.json", (1, 1))
    assert find(recipe, policy) is None
    assert "made anew" in caplog.text


MISTAKES = {
    "cache.name=toy calibration=HERE sampler.steps=4": "has 8 steps, the policy's sampler 4",
    "cache.name=toy calibration=HERE task.checkpoint=checkpoints/kitchen": "their sites differ",
    "cache.name=toy calibration=nowhere": "no calibration at nowhere/calibration.json",
    "calibration=HERE runner=calibrate": "calibration.path must be null with runner=calibrate",
    "cache.name=toy calibration.n_queries=7": "calibration.n_queries must be at least 8, got 7",
    "cache.name=toy calibration.n_episodes=1": "calibration.n_episodes must be at least 2, got 1",
    "cache.name=toy calibration.seed=3": "calibration.seed: unknown key, allowed: path, force",
    "runner=calibrate calibration.start_seed=99998": "seeds 99998 to 100001 are among the test",
    "cache.name=toy start_seed=300001": "seeds 300000 to 300003 are among the test seeds (300001",
    "runner=calibrate runner.n=1": "runner.n: unknown key, allowed: name",
    "cache.name=toy +cache.steps=9": "cache.steps must be at most 8",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    mistake: str,
    calm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setitem(CACHES, "toy", None)
    calibrated_run.register(CACHES)
    words = mistake.replace("HERE", str(calibration_folder(calm))).split()
    assert run_cli([*SMALL, *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert MISTAKES[mistake] in line
    assert not list(tmp_path.iterdir())


def test_queries_are_spread_over_episodes_and_phases() -> None:
    assert spread([10, 10], 4) == [(0, 2), (0, 7), (1, 2), (1, 7)]
    assert spread([1, 10, 10], 7) == [(0, 0), (1, 1), (1, 5), (1, 8), (2, 1), (2, 5), (2, 8)]
    assert spread([2, 0, 1], 9) == [(0, 0), (0, 1), (2, 0)]
    long = spread([35] * 8, 64)
    assert len(set(long)) == 64
    assert {e for e, _ in long} == set(range(8))


def test_too_few_queries_are_refused_and_few_are_said(caplog: pytest.LogCaptureFixture) -> None:
    observed = [np.zeros((4, 2, 3))] * 2
    assert len(choose_queries([5, 6], observed, 64)) == 8
    assert "calibration.n_queries=64: the episodes hold 8, all are used" in caplog.text
    with pytest.raises(TooFewQueriesError, match="2 episodes hold 7 queries"):
        choose_queries([5, 6], [observed[0], observed[0][:3]], 64)
