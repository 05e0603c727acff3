"""What W&B finds in a run's folder, read back from the offline file, and what it leaves outside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accel import UniformConfig, resolve
from policies import load_policy
from runners.jobs.versions import versions
from runners.loggers import PLACES, WandbLogger
from runners.wandb_values import name_of, wandb_config
from tests.helpers import wandb_file
from tests.helpers.places import PROJECT

RUN = {"project": "p", "entity": None, "id": "main-01234567", "name": "kitchen uniform S=9"}
RECORD = {"seed": 100000, "status": "ok", "success": True, "score": 1.0, "attempts": 1}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, and none of W&B's folders named."""
    for name in (*PLACES, "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_all_of_a_run_is_in_its_folder(home: Path, tmp_path: Path) -> None:
    policy = load_policy(PROJECT / "checkpoints/kitchen")
    plan = resolve(policy, UniformConfig(steps=9))
    folder = tmp_path / "run"
    folder.mkdir()
    logger = WandbLogger(folder, RUN, wandb_config({"cache": {"name": "uniform"}}, versions()))
    assert os.environ["WANDB_DATA_DIR"] == str(folder / "wandb/data")
    logger.episode(RECORD, 1.0)
    logger.pictures("kitchen uniform S=9", plan, {"samples_ms": {"accelerated": [1.0, 2.0, 2.5]}})
    logger.finish({"success_rate": 1.0}, [RECORD], folder)
    logger.close(0)
    assert not any(name in os.environ for name in PLACES)
    assert [str(path) for path in home.rglob("*") if path.is_file()] == []

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content = wandb_file.read(path)
    assert content["run"].display_name == "kitchen uniform S=9"
    assert set(content["config"]) >= {"cache", "versions", "cpu"}
    assert content["config"]["versions"]["python"]
    (row,) = (row for row in content["history"] if "test/success_rate" in row)
    assert {key for key in row if not key.startswith("_")} == {
        *("episode", "test/success", "test/score", "test/success_rate")
    }
    summary = content["summary"]
    assert sum(summary["latency/accelerated_ms.values"]) == 3
    drawn = (path.parent / "files" / summary["plan.path"]).read_text()
    assert "Plan of kitchen uniform S=9" in drawn
    table = json.loads((path.parent / "files" / summary["episodes.path"]).read_text())
    assert table["data"][0][:2] == [100000, "ok"]


def test_a_run_that_does_not_start_leaves_the_environment_as_it_was(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def init(**_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_DATA_DIR", "mine")
    with pytest.raises(OSError, match="disk full"):
        WandbLogger(tmp_path, RUN, {})
    assert os.environ["WANDB_DATA_DIR"] == "mine"
    assert "WANDB_CACHE_DIR" not in os.environ


NAMES = {
    "kitchen hash_ab S=10": ("eval", "checkpoint", {"name": "hash_ab", "steps": 10}, 0),
    "kitchen hash_ab S=10, ddpm-5": ("eval", "ddpm", {"name": "hash_ab", "steps": 10}, 0),
    "kitchen none": ("eval", "checkpoint", {"name": "none"}, 0),
    "kitchen none noise 3": ("eval", "checkpoint", {"name": "none"}, 3),
    "kitchen train s0": ("train", "checkpoint", {}, 0),
}


@pytest.mark.parametrize("name", NAMES)
def test_runs_have_names_that_people_use(name: str) -> None:
    kind, sampler, cache, noise_seed = NAMES[name]
    config = {
        "task": {"name": "kitchen"},
        "cache": cache,
        "quant": {"name": "none"},
        "sampler": {"kind": "ddpm", "steps": 5},
        "noise_seed": noise_seed,
    }
    chosen = SimpleNamespace(name=sampler)
    job = SimpleNamespace(config=config, sampler=chosen, name="kitchen_train_s0_01234567")
    assert name_of(job, kind) == name
