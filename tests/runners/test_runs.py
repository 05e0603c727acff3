"""Whole runs of the command line: real simulator, real checkpoint file, real processes killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers import wandb_file
from tests.helpers.here import run_here
from tests.helpers.places import FIXTURES, PROJECT

FIXTURE = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"
SMALL = [
    f"task.checkpoint={FIXTURE}",
    "task.max_steps=20",
    "cache=uniform",
    "latency.repeats=3",
    "latency.warmup=1",
    "n_episodes=12",
    "threads=1",
]


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(PROJECT / "run.py"), *SMALL, *overrides]


def run(folder: Path, *overrides: str) -> str:
    """In this process; what it said."""
    return run_here(folder, *SMALL, *overrides)


def run_folder(root: Path) -> Path:
    (folder,) = (root / "multirun/main").iterdir()
    return folder


def episodes(root: Path) -> dict[int, dict[str, Any]]:
    """By seed, without what depends on the machine."""
    lines = (run_folder(root) / "episodes.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len({r["seed"] for r in records}) == len(records), "an episode was run twice"
    return {r.pop("seed"): {k: v for k, v in r.items() if k != "seconds"} for r in records}


def result(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_folder(root) / "result.json").read_text())
    return found


def start(folder: Path, *overrides: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run that has finished a third of its episodes, and its child processes."""
    process = subprocess.Popen(
        command(*overrides), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = list(folder.glob("multirun/main/*/episodes.jsonl"))
        if found and len(found[0].read_text().splitlines()) >= 4:
            return process, psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate())


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run with one env, as a program; its first episode is filmed."""
    folder = tmp_path_factory.mktemp("calm")
    done = subprocess.run(command("n_envs=1"), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout)
    return folder


def test_a_run_says_and_writes_what_it_found(calm: Path) -> None:
    folder, found = run_folder(calm), result(calm)
    assert found["n_episodes"] == 12
    assert found["n_errors"] == 0
    assert set(found["task_metrics"]) == {f"p_{n}" for n in range(1, 8)}
    assert found["flops"]["share"] < 0.3
    assert len(found["latency"]["samples_ms"]["plain"]) == 3
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"
    assert (folder / "videos/100000.mp4").stat().st_size > 1000
    said = (calm / "said").read_text()
    assert set(found["time"]) == {"startup_s", "policy_s", "simulator_wait_s", "latency_s"}
    assert all(seconds > 0 for seconds in found["time"].values())
    assert sum(found["time"].values()) - found["time"]["startup_s"] < found["wall_s"] + 0.1
    for words in (
        "success",
        "p_1",
        "p_4",
        "latency",
        "FLOPs",
        "s start-up",
        str(folder.relative_to(calm)),
    ):
        assert words in said
    assert "python run.py cache=none" in said  # no baseline yet: the command that makes it
    assert not list(folder.rglob(".*.tmp"))


def test_the_number_of_envs_changes_nothing(calm: Path, tmp_path: Path) -> None:
    run(tmp_path, "n_envs=3", "videos=0", "logger=none")
    expected = {s: {**e, "video": None} for s, e in episodes(calm).items()}
    assert episodes(tmp_path) == expected


def test_a_killed_run_goes_on_where_it_was(calm: Path, tmp_path: Path) -> None:
    process, children = start(tmp_path, "n_envs=2")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert_gone(children)
    before = episodes(tmp_path)
    assert 4 <= len(before) < 12
    spent = json.loads((run_folder(tmp_path) / "time.json").read_text())
    assert spent["startup_s"] > 0
    run(tmp_path, "n_envs=2")
    assert result(tmp_path)["time"]["startup_s"] > spent["startup_s"]
    assert result(tmp_path)["time"]["policy_s"] > spent["policy_s"]
    assert episodes(tmp_path) == episodes(calm)
    assert result(tmp_path)["success_rate"] == result(calm)["success_rate"]
    newest = max(run_folder(tmp_path).glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime)
    assert len(logged_episodes(wandb_file.read(newest))) == 12


def test_ctrl_c_ends_the_children_and_can_be_resumed(tmp_path: Path) -> None:
    process, children = start(tmp_path, "n_envs=2", "logger=none", "videos=0")
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert_gone(children)
    status = json.loads((run_folder(tmp_path) / "status.json").read_text())
    assert status["status"] == "interrupted"
    assert 4 <= len(episodes(tmp_path)) < 12


def test_a_finished_run_is_recognised_and_extended(calm: Path, tmp_path: Path) -> None:
    few = ("n_episodes=3", "n_envs=1", "logger=none", "videos=0")
    run(tmp_path, *few)
    written = (run_folder(tmp_path) / "episodes.jsonl").stat().st_mtime_ns
    again = run(tmp_path, *few)
    assert "finished already" in again
    assert "success" in again
    assert (run_folder(tmp_path) / "episodes.jsonl").stat().st_mtime_ns == written
    first = result(tmp_path)["time"]
    run(tmp_path, "n_episodes=5", "n_envs=2", "logger=none", "videos=0")
    assert result(tmp_path)["n_episodes"] == 5
    second = result(tmp_path)["time"]
    assert all(second[part] > first[part] for part in ("startup_s", "policy_s", "simulator_wait_s"))
    assert second["latency_s"] == pytest.approx(first["latency_s"], abs=0.5)  # not measured again
    expected = {s: {**e, "video": None} for s, e in episodes(calm).items()}
    assert episodes(tmp_path) == {s: expected[s] for s in range(100000, 100005)}


def logged_episodes(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in content["history"] if "test/success_rate" in row]


def test_the_wandb_file_holds_config_episodes_and_summary(calm: Path) -> None:
    (path,) = run_folder(calm).glob("wandb/offline-run-*/*.wandb")
    content, found = wandb_file.read(path), result(calm)
    assert content["config"]["cache"] == {
        "name": "uniform",
        "steps": 20,
        "spacing": "quadratic",
        "power": 3.0,
    }
    assert content["config"]["fingerprint"] == found["fingerprint"]
    assert content["run"].run_id == f"main-{found['fingerprint']}"
    assert content["run"].run_group == "main"
    assert content["exit"] == 0
    rows = logged_episodes(content)
    known = episodes(calm)
    assert [row["episode"] for row in rows] == list(range(1, 13))
    assert sorted(r["test/score"] for r in rows) == sorted(e["score"] for e in known.values())
    assert not {"test/seed", "test/attempts"} & {key for row in rows for key in row}
    assert content["run"].display_name == "kitchen uniform S=20"
    assert content["config"]["versions"]["torch"] == found["versions"]["torch"]
    assert content["config"]["cpu"] == found["latency"]["cpu"]
    summary = content["summary"]
    drawn = (path.parent / "files" / summary["plan.path"]).read_text()
    assert "Plan of kitchen uniform S=20" in drawn
    assert "20.0% of cells computed" in drawn
    assert sum(summary["latency/accelerated_ms.values"]) == found["latency"]["repeats"]
    assert summary["success_rate"] == found["success_rate"]
    assert summary["test/mean_score"] == found["mean_score"]
    assert summary["test/p_1"] == found["task_metrics"]["p_1"]
    assert summary["latency/accelerated_p50_ms"] == found["latency"]["accelerated"]["p50_ms"]
    assert summary["time/policy_s"] == found["time"]["policy_s"]
    assert summary["episodes.nrows"] == 12
    table = path.parent / "files" / summary["episodes.path"]
    told = json.loads(table.read_text())
    rows, energy = told["data"], told["columns"].index("energy_j")
    assert {row[0]: row[3] for row in rows} == {s: e["score"] for s, e in known.items()}
    spent = {s: e["embodied"]["energy_j"] for s, e in known.items()}
    assert min(spent.values()) > 0
    assert {row[0]: row[energy] for row in rows} == spent
    assert summary["embodied/energy_j"] == pytest.approx(sum(spent.values()) / 12)
    assert found["embodied"]["energy_j"]["mean"] == summary["embodied/energy_j"]
    assert (path.parent / "files" / summary["test/sim_video_100000.path"]).stat().st_size > 1000


def test_a_sweep_pairs_its_arms_with_the_baseline(tmp_path: Path) -> None:
    said = run(
        tmp_path, "-m", "cache=none,uniform", "n_episodes=2", "n_envs=1", "logger=none", "videos=0"
    )
    assert "this is the baseline" in said
    assert "on 2 seeds" in said
    folders = sorted(p.name for p in (tmp_path / "multirun/main").iterdir() if p.is_dir())
    assert [name.rpartition("_")[0] for name in folders] == [
        "kitchen_none_none_s0",
        "kitchen_uniform_none_s0",
    ]


def test_lift_runs_too(tmp_path: Path) -> None:
    fixture = str(FIXTURE).replace("kitchen_lowdim", "lift_lowdim")
    run(
        tmp_path,
        "task=lift",
        f"task.checkpoint={fixture}",
        "task.max_steps=10",
        "n_episodes=2",
        "n_envs=2",
        "videos=0",
        "logger=none",
    )
    assert {e["n_steps"] for e in episodes(tmp_path).values()} == {10}


def test_a_name_that_a_killed_run_still_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    from runners import loggers

    tried: list[str] = []

    class Started:
        def define_metric(self, *_: object, **__: object) -> None: ...

    def init(**_: object) -> Started:
        tried.append("")
        if len(tried) < 3:
            raise RuntimeError("run ID main-0 is in use")
        return Started()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(loggers, "WAIT_S", 0.0)
    monkeypatch.setenv("WANDB_SERVICE", "of the process that started this one")
    loggers.WandbLogger(tmp_path, {}, {})
    assert len(tried) == 3
    assert "WANDB_SERVICE" not in os.environ
    monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        loggers.WandbLogger(tmp_path, {}, {})
