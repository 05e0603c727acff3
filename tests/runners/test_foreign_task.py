"""Checkpoints of other tasks: refused by name, run where the user insists."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import envs
from envs import TASKS
from policies import DiffusionPolicy, NetworkConfig, PolicyConfig, TaskInfo, save_policy
from runners.cli import job_of, run


def trained_for(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    network = NetworkConfig(7, 7, 10, 2, cond_dim=19, n_layer=1, n_head=2, n_emb=16)
    config = PolicyConfig(network, obs_dim=19, action_dim=7, n_action_steps=8, task=TaskInfo(name))
    save_policy(DiffusionPolicy(config), folder)
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def words(checkpoint: Path, *more: str) -> list[str]:
    return [f"task.checkpoint={checkpoint}", "logger=none", "engine=reference", *more]


@pytest.mark.parametrize("name", ["lift_lowdim", "lift_ph", ""])
def test_a_checkpoint_of_the_task_or_of_none_runs(name: str, tmp_path: Path) -> None:
    job = job_of(words(trained_for(name, tmp_path / "policy"), "task=lift"))
    assert job.task.name == "lift"


@pytest.mark.parametrize(
    ("name", "fits"),
    [("door_lowdim", "none of lift, kitchen"), ("kitchen_lift", "task=kitchen")],
)
def test_another_tasks_checkpoint_is_a_mistake(
    name: str, fits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained_for(name, tmp_path / "policy")
    assert run(words(folder, "task=lift")) == 2
    said = capsys.readouterr().err
    assert f"task.checkpoint {folder} was trained for {name}, not for task=lift; it fits" in said
    assert fits in said
    assert "task.allow_foreign=true insists" in said


def test_who_insists_is_warned_and_gets_the_same_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = words(trained_for("lift_lowdim", tmp_path / "own"), "task=lift")
    foreign = words(trained_for("tool_hang", tmp_path / "foreign"), "task=lift")
    with caplog.at_level(logging.WARNING):
        job = job_of([*foreign, "task.allow_foreign=true"])
    assert "task.allow_foreign=true lets it run all the same" in caplog.text
    assert job.name.startswith("lift_none_none_s0_")
    assert job_of([*own, "task.allow_foreign=true"]).fingerprint == job_of(own).fingerprint


def test_a_task_whose_name_holds_another_ones_keeps_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(envs.TASKS, "lift_hard", TASKS["lift"])
    folder = trained_for("lift_hard_lowdim", tmp_path / "policy")
    assert job_of(words(folder, "task=lift", "task.name=lift_hard")).checkpoint == str(folder)
    assert run(words(folder, "task=lift")) == 2
