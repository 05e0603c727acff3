"""A study as runs leave it: the committed starter runs, with latencies, films and failures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from runners.store.published import published
from tests.helpers.places import PROJECT

STARTER = PROJECT / "results/studies/starter.yaml"
FILES = ("config.yaml", "result.json", "episodes.jsonl")
KITCHEN, LIFT = "kitchen_none_none_s0_e9e9298a", "lift_none_none_s0_104bd7b4"
SLOWER = "kitchen_uniform_none_s0_309c19ed"  # 20 steps
QUADRATIC, EVEN = "kitchen_uniform_none_s0_604ce7fb", "kitchen_uniform_none_s0_16651423"
LIFT_EVEN = "lift_uniform_none_s0_e681f132"
CUT_OFF, FAILED = "lift_uniform_none_s0_00000000", "kitchen_bac_none_s0_12345678"


def copy_starter(folder: Path) -> Path:
    """Seven finished runs, on two tasks."""
    for run in published(STARTER):
        (folder / run.name).mkdir(parents=True)
        run.copy(folder / run.name, FILES)
    return folder


def time_it(folder: Path, fast_ms: float, plain_ms: float = 1000.0) -> None:
    """As if its latency had been measured; medians are exactly these."""
    swing = np.exp(np.linspace(-0.1, 0.1, 101))
    samples = {
        "accelerated": (fast_ms * swing).tolist(),
        "plain": (plain_ms * swing[::-1]).tolist(),
    }
    latency = {"batch": 1, "warmup": 10, "repeats": 101, "threads": 2, "device": "cpu"}
    change_result(folder, latency={**latency, "samples_ms": samples})


def change_result(folder: Path, **values: object) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def film(folder: Path, seed: int) -> None:
    (folder / "videos").mkdir(exist_ok=True)
    (folder / f"videos/{seed}.mp4").write_bytes(b"film")
    records = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    for record in records:
        if record["seed"] == seed:
            record["video"] = f"videos/{seed}.mp4"
    (folder / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def cut_off(study: Path) -> None:
    """A killed run: 40 whole episodes, half a line, and a status that says running."""
    folder = Path(shutil.copytree(study / LIFT_EVEN, study / CUT_OFF))
    (folder / "result.json").unlink()
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("  steps: 10\n", "  steps: 5\n"))
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    (folder / "episodes.jsonl").write_text("\n".join(lines[:40]) + '\n{"seed": 1000')
    (folder / "status.json").write_text('{"status": "running"}')
    (folder / ".lock").touch()


def failed(study: Path) -> None:
    """A job that raised before it wrote a configuration."""
    (study / FAILED / ".hydra").mkdir(parents=True)
    (study / FAILED / ".hydra/overrides.yaml").write_text("- cache=bac\n- task=kitchen\n")
    (study / FAILED / "status.json").write_text('{"status": "failed"}')
    trace = "Traceback (most recent call last):\n  ...\nRuntimeError: 3 | 4 <queries>\n"
    (study / FAILED / "traceback.txt").write_text(trace)
