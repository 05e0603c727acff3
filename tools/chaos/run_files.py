"""Folders of runs: read for a report, opened to go on, and sent to W&B."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from runners.errors import UserError
from runners.store.folder import RunStore, StoreError
from runners.store.published import published
from runners.store.reading import UNREADABLE, read_run

from .kind import Kind
from .runs import PROJECT


def _make_run(folder: Path) -> Path:
    run = published(PROJECT / "results/studies/starter.yaml")[0]
    target = folder / run.name
    target.mkdir(parents=True)
    run.copy(target, ("config.yaml", "result.json", "episodes.jsonl"))
    lines = (target / "episodes.jsonl").read_text().splitlines(keepends=True)[:10]
    (target / "episodes.jsonl").write_text("".join(lines))
    (target / "status.json").write_text(json.dumps({"status": "finished"}))
    (target / "time.json").write_text(json.dumps({"policy_s": 1.0}))
    (target / "plan.txt").write_text("0" * 64)
    np.savez_compressed(target / "observations.npz", obs=np.ones((2, 4, 60)))
    file = target / "wandb/offline-run-20260101_000000-a/run-a.wandb"
    file.parent.mkdir(parents=True)
    file.write_bytes(b":W&B\0\0\0" + bytes(64))
    return target


def _read_run(path: Path) -> Any:
    run = read_run(path)
    if run.status == UNREADABLE:
        raise StoreError(run.error)
    return run


def _numbers(value: Any) -> Any:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value


def _as_in_run(run: Any, before: Any, path: Path) -> str:
    for what in (run.result, run.config, *run.episodes.values()):
        if not all(math.isfinite(number) for number in _numbers(what)):
            return "a number is not finite"
    whole = (path / "episodes.jsonl").read_bytes().rpartition(b"\n")[0]  # the rest was cut off
    lines = [json.loads(line) for line in whole.split(b"\n") if line]
    if sorted(run.episodes) != sorted({line["seed"] for line in lines}):
        return f"episodes are {sorted(run.episodes)}"
    if run.result and run.result != json.loads((path / "result.json").read_text()):
        return "the result is another one"
    return ""


def _resume(path: Path) -> Any:
    """Open it as the same command would, and look at what it would start from."""
    config = OmegaConf.to_container(OmegaConf.load(path.parent / "whole.yaml"))
    with RunStore(path, config) as store:
        store.observations()
        store.result()
        return dict(store.episodes)


def _make_resumed(folder: Path) -> Path:
    path = _make_run(folder)
    (folder / "whole.yaml").write_bytes((path / "config.yaml").read_bytes())
    return path


def _kept(found: Any, before: Any, path: Path) -> str:
    made_up = [seed for seed in found if type(seed) is not int]
    return f"seeds are {made_up}" if made_up else ""


def _sync(path: Path) -> Any:
    from runners import sync

    sync.has_key = lambda: True
    sent: list[Path] = []
    said, _ = sync.sync_study(path.parent, lambda file: not sent.append(file))
    return [str(file.relative_to(path)) for file in sent], len(said)


def _sent_inside(found: Any, before: Any, path: Path) -> str:
    return "" if found[0] in ([], before[0]) else f"sent {found[0]}"


KINDS: dict[str, Kind] = {
    "run folder": Kind(_make_run, _read_run, (StoreError,), _as_in_run),
    "resumed run": Kind(_make_resumed, _resume, (StoreError,), _kept),
    "W&B folder": Kind(_make_run, _sync, (UserError, StoreError), _sent_inside),
}
