"""What is sent of an offline study, without sending anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf

from runners import sync
from runners.sync import sync_study
from tests.helpers import run_files, wandb_file
from tests.helpers.places import PROJECT

OLD, NEW = "offline-run-20260101_000000-a", "offline-run-20260102_000000-a"


def a_run(study: Path, name: str, status: str, *files: str) -> None:
    folder = study / name
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"status": status}))
    logger = {"name": "offline", "project": "p", "entity": "e"}
    OmegaConf.save(run_files.config(logger=logger), folder / "config.yaml")
    for file in files:
        (folder / "wandb" / file).mkdir(parents=True)
        (folder / "wandb" / file / "run-a.wandb").touch()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    a_run(tmp_path / "s", "a_done", "finished", OLD, NEW)
    a_run(tmp_path / "s", "b_failed", "failed", OLD)
    a_run(tmp_path / "s", "c_unlogged", "finished")
    (tmp_path / "s/report").mkdir()
    (tmp_path / "s/report/report.html").touch()
    return tmp_path / "s"


def test_the_newest_file_of_finished_runs_is_sent_once(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "has_key", lambda: True)
    sent: list[Path] = []
    reports: list[Mapping[str, Any]] = []

    def send(path: Path) -> bool:
        sent.append(path)
        (path / "run-a.wandb.synced").touch()  # as wandb sync does
        return True

    def report(folder: Path, logger: Mapping[str, Any]) -> bool:
        reports.append(logger)
        return True

    said, whole = sync_study(study, send, report)
    assert whole
    assert sent == [study / "a_done/wandb" / NEW]
    assert said == {
        "a_done": "sent",
        "b_failed": "left out: failed",
        "c_unlogged": "left out: no offline files",
        "report": "sent",
    }
    assert reports[0]["project"] == "p"
    said, _ = sync_study(study, send, report)
    assert said["a_done"] == "sent already"
    assert len(sent) == 1


def test_what_cannot_be_sent_is_said_and_the_rest_goes_on(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "has_key", lambda: True)
    said, whole = sync_study(study, lambda path: False, lambda *_: True)
    assert not whole
    assert (said["a_done"], said["report"]) == ("failed", "sent")


def test_the_command_is_wandb_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    class Done:
        returncode = 1

    def run(words: list[str]) -> Done:
        seen.append(words)
        return Done()

    monkeypatch.setattr(sync.subprocess, "run", run)
    assert not sync.sync_file(Path("x"))
    assert seen[0][1:] == ["-m", "wandb", "sync", "x"]


def test_no_key_and_no_study_are_mistakes(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(study))  # no W&B key of this user
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()  # in an offline session that an earlier test left, a key is not asked for
    assert sync.run([str(study)]) == 2
    assert sync.run([str(study / "none")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "wandb login" in lines[-2]
    assert "there is none at" in lines[-1]


def test_the_report_is_an_artifact_in_a_file_read_back(study: Path) -> None:
    """Offline, and in a process of its own: W&B's service belongs to whoever started it."""
    words = f"from runners.sync import *; send_report(Path({str(study)!r}), {{'project': 'p'}})"
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", words], env=environment, check=True, timeout=120)
    (file,) = study.glob("wandb/offline-run-*/*.wandb")
    run = wandb_file.read(file)["run"]
    assert (run.project, run.run_group, run.job_type) == ("p", "s", "report")
    assert run.run_id == "s-report"
    (artifact,) = (
        record.artifact
        for record in wandb_file.records(file)
        if record.WhichOneof("record_type") == "artifact"
    )
    assert (artifact.name, artifact.type) == ("s-report", "report")
    assert [entry.path for entry in artifact.manifest.contents] == ["report.html"]
