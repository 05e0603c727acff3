"""Runs of the command line of a policy that sees pictures: played, killed, shown, refused."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import envs
from accel import encode_flops, flops_share, plain_flops, share_of
from policies import load_policy
from runners import cli
from runners.episodes.queries import Queries
from runners.formatting import encode_words, ms, share, stages_words
from runners.report.build import write_report
from runners.store.folder import read_episodes, read_observations
from runners.studies.comparisons import ReportConfig
from runners.studies.cost import stages_of
from tests.helpers import fake_episodes, wandb_file
from tests.helpers.picture_runs import ENTRY, WORDS, save_picture_policy
from tests.helpers.places import PROJECT
from tests.helpers.train_files import write_npz

MAIN = Path("multirun/main")


@pytest.fixture(scope="module")
def monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(envs.TASKS, "picture", ENTRY)
        yield patch


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_picture_policy(tmp_path_factory.mktemp("policy") / "picture")


def run(monkeypatch: pytest.MonkeyPatch, policy: Path, *words: str, expect: int = 0) -> str:
    """The command line in this process, in the current folder."""
    monkeypatch.setattr(sys, "argv", ["run.py"])
    said = io.StringIO()
    with redirect_stdout(said):
        assert cli.run([*WORDS, f"task.checkpoint={policy}", *words]) == expect
    return said.getvalue()


def only(pattern: str) -> tuple[Path, dict[str, Any]]:
    (folder,) = MAIN.glob(pattern)
    return folder, json.loads((folder / "result.json").read_text())


def episodes(root: Path) -> dict[int, dict[str, Any]]:
    """Without what depends on the machine."""
    (folder,) = (root / MAIN).glob("picture_none_none_*")
    found = read_episodes(folder)
    return {s: {k: v for k, v in e.items() if k != "seconds"} for s, e in found.items()}


@pytest.fixture(scope="module")
def calm(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, policy: Path
) -> Path:
    """An undisturbed run with one world."""
    folder = tmp_path_factory.mktemp("calm")
    monkeypatch.chdir(folder)
    (folder / "said").write_text(run(monkeypatch, policy, "cache=none", "n_envs=1"))
    return folder


def test_a_run_says_and_writes_what_it_found(
    calm: Path, monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    monkeypatch.chdir(calm)
    folder, found = only("picture_none_none_*")
    assert (found["n_episodes"], found["n_errors"]) == (6, 0)
    said = (calm / "said").read_text()
    assert encode_words(found["flops"]["encode"]) in said
    assert stages_words(stages_of(found["latency"])) in said
    queries = read_observations(folder / "observations.npz")
    assert queries is not None
    assert {name: (a.shape[1:], a.dtype.name) for name, a in queries.items()} == {
        "state": ((2, 3), "float32"),
        "image.top": ((2, 3, 14, 18), "uint8"),  # as large as the policy sees it
    }
    assert len(queries["state"]) == sum(e["n_queries"] for e in episodes(calm).values())


def test_the_number_of_worlds_changes_nothing(
    calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for n_envs in (3, 4):
        run(monkeypatch, policy, "cache=none", f"n_envs={n_envs}", "force=true")
        assert episodes(tmp_path) == episodes(calm)


def test_a_killed_run_goes_on_where_it_was(
    calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    words = ["cache=none", "n_envs=2", f"task.checkpoint={policy}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.picture_runs", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline, there = time.monotonic() + 240, 0
    while there < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        there = sum(len(p.read_text().splitlines()) for p in tmp_path.glob(f"{MAIN}/*/epis*.jsonl"))
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert 2 <= len(episodes(tmp_path)) < 6
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, policy, "cache=none", "n_envs=2")
    assert episodes(tmp_path) == episodes(calm)


def test_what_is_calibrated_saw_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("cache=bac", "cache.steps=2", "quant=rtn", "quant.min_features=8", "n_episodes=2")
    few = ("calibration.n_queries=8", "calibration.n_episodes=3", "engine=fused")
    run(monkeypatch, policy, *words, *few)
    _, found = only("picture_bac_rtn_*")
    assert (found["n_episodes"], found["n_errors"]) == (2, 0)
    assert found["stats"]["encode_flops"] == found["flops"]["encode"]
    (path,) = tmp_path.glob("multirun/calibrations/*/queries.npz")
    queries = Queries.load(path)
    assert len(queries) == 8
    assert queries.obs["image.top"].dtype == np.uint8
    assert len({image.tobytes() for image in queries.obs["image.top"]}) == 8
    written = path.stat().st_mtime_ns
    run(monkeypatch, policy, "runner=calibrate", *words, *few)
    assert path.stat().st_mtime_ns == written


def test_a_search_tries_windows_on_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("calibration.n_queries=8", "calibration.n_episodes=3", "runner.intervals=[2]")
    run(monkeypatch, policy, "runner=search", "cache=none", "runner.ratio=1.3", *few)
    _, found = only("search_*")
    assert found["finalists"]
    assert all(f["error_mean"] > 0 for f in found["finalists"])


@pytest.mark.parametrize("source", ["policy", "expert"])
def test_pictures_are_collected(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("runner=collect", f"runner.source={source}", "runner.success_only=false")
    run(monkeypatch, policy, *words, "n_episodes=2", "cache=none", "engine=reference")
    folder, found = only("collect_*")
    size = 14 if source == "policy" else 12
    with h5py.File(folder / "dataset.hdf5") as file:
        for group in file["data"].values():
            n = group.attrs["num_samples"]
            assert group["obs/top_image"].shape == (n, size, size + 4, 3)
            assert group["obs/obs"].shape == (n, 3)
    assert found["n_demos"] == 2


REFUSED = {
    "+task.size=30": "task.size=30 contradicts the checkpoint, 14",
    "runner=train runner.data=demos.npz": "demos.npz: an npz holds no images: image.top must come "
    "from a robomimic HDF5 or a LeRobot folder",
    "cache=bac calibration.data=demos.npz": "calibration.data: demos.npz: an npz holds no images",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_pictures_cannot_do_is_a_mistake(
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz(Path("demos.npz"))
    run(monkeypatch, policy, "cache=none", *words.split(), expect=2)
    said = capsys.readouterr().err
    assert REFUSED[words] in said
    assert said.count("\n") == 1
    assert not MAIN.exists()


def test_another_policys_observations_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = save_picture_policy(tmp_path / "other", n_state=5)
    run(monkeypatch, other, "cache=none", expect=2)
    assert (
        f"task.checkpoint {other} does not fit the observations of task=picture: "
        "state must be of 5 numbers, got 3 numbers\n" in capsys.readouterr().err
    )


def test_encoding_is_the_same_number_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Path
) -> None:
    """In result.json, the terminal, the report, its CSV, W&B and runner=show."""
    monkeypatch.chdir(tmp_path)
    cached = ("cache=uniform", "cache.steps=2", "engine=fused", "n_episodes=3")
    run(monkeypatch, policy, "cache=none", "engine=fused", "n_episodes=3")
    terminal = run(monkeypatch, policy, *cached, "logger=offline")
    shown = run(monkeypatch, policy, "runner=show", *cached)
    folder, result = only("picture_uniform_*")
    found, loaded = result["flops"], load_policy(str(policy))
    assert list(found) == ["query", "plain", "share", "executed_share", "encode"]
    assert found["encode"] == encode_flops(loaded) == loaded.encode_flops > 0
    assert found["plain"] == plain_flops(loaded)
    computed = np.array(result["stats"]["computed"]) / result["stats"]["n_queries"]
    assert found["share"] == flops_share(loaded, computed, loaded)
    assert found["executed_share"] == share_of(found["query"], loaded, loaded)
    both = found["encode"] + found["query"], found["encode"] + found["plain"]
    assert found["executed_share"] == both[0] / both[1]
    _, show = only("show_*")
    assert show["plans"][0]["flops"]["encode"] == found["encode"]
    assert show["plans"][0]["flops"]["share"] == found["share"]
    assert show["plans"][0]["flops"]["live_share"] == found["executed_share"]
    for text in (terminal, shown):
        assert encode_words(found["encode"]) in text
        assert f"({share(found['executed_share'])})" in text
    stages = stages_of(result["latency"])
    assert f"  stages         {stages_words(stages)}" in terminal
    write_report(MAIN, ReportConfig())
    report = (MAIN / "report/report.md").read_text()
    of = share(found["encode"] / both[1])
    counted = f"| {found['encode'] / 1e9:.3f} | {found['query'] / 1e9:.3f} | {of} |"
    assert [r for r in report.splitlines() if r.startswith("| 2 uniform") and r.endswith(counted)]
    with (MAIN / "report/arms.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if r["run"] == folder.name)
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    wandb = wandb_file.read(path)["summary"]
    assert float(row["encode_flops"]) == wandb["flops/encode"] == found["encode"]
    for name, (fast, plain) in stages.items():
        assert float(row[f"{name}_p50_ms"]) == fast
        assert float(row[f"plain_{name}_p50_ms"]) == plain
        assert wandb[f"latency/accelerated_{name}_p50_ms"] == fast
        assert f"| {ms(fast)} " in report


def test_a_run_without_pictures_keeps_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_episodes.fake(monkeypatch)
    words = ("cache=uniform", "cache.steps=20", "n_episodes=4", "videos=0", "latency.repeats=2")
    assert fake_episodes.run(monkeypatch, "task=kitchen", *words) == 0
    (folder,) = MAIN.glob("kitchen_uniform_*")
    result = json.loads((folder / "result.json").read_text())
    assert list(result["flops"]) == ["query", "plain", "share", "executed_share"]
    assert "encode_flops" not in result["stats"]
    assert not [
        k for arm in ("accelerated", "plain") for k in result["latency"][arm] if "code" in k
    ]
    write_report(MAIN, ReportConfig())
    header = (MAIN / "report/arms.csv").read_text().splitlines()[0]
    assert "encode" not in header
    assert "encode" not in (MAIN / "report/report.md").read_text()
