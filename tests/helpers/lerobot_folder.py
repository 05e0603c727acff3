"""Folders as LeRobot wrote them: recorded files, and weights that are a formula of their key."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.helpers.places import PROJECT

FIXTURES = PROJECT / "tests/fixtures/lerobot"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
STATE_FILES = {
    "before": "policy_preprocessor_step_3_normalizer_processor.safetensors",
    "after": "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
}
NOT_WRITTEN = ("weights.json", "expected.npz", "about.json", "tiny_clip_config.json")
Arrays = dict[str, np.ndarray]

SCALES = {"bias": 0.02, "running_mean": 0.1}
AROUND_ONE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "norm_weight": lambda z: 1 + 0.1 * z,
    "running_var": lambda z: 1 + 0.1 * np.abs(z),
}


def weight(key: str, entry: dict[str, Any]) -> np.ndarray:
    """The value of a key by the rule that is recorded for it."""
    shape, rule = tuple(entry["shape"]), entry["rule"]
    if rule == "stored":
        return np.array(entry["value"], entry["dtype"]).reshape(shape)
    if rule == "zero":
        return np.zeros(shape, entry["dtype"])
    drawn = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    z = drawn.astype(np.float32)
    if rule == "fan_in":
        return z * float(1 / math.sqrt(math.prod(shape[1:])))
    return z * SCALES[rule] if rule in SCALES else AROUND_ONE[rule](z)


def weights_of(name: str) -> Arrays:
    entries = json.loads((FIXTURES / name / "weights.json").read_text())
    return {key: weight(key, entry) for key, entry in entries.items()}


def write(name: str, folder: Path) -> Path:
    """The folder that LeRobot wrote, weights and all."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (FIXTURES / name).iterdir():
        if file.name not in NOT_WRITTEN:
            shutil.copy(file, folder / file.name)
    save_file(weights_of(name), folder / WEIGHTS)
    return folder


def expected(name: str) -> Arrays:
    with np.load(FIXTURES / name / "expected.npz") as arrays:
        return dict(arrays)


def edit_json(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def edit_tensors(folder: Path, name: str, change: Callable[[Arrays], Any]) -> None:
    content = load_file(folder / name)
    change(content)
    save_file(content, folder / name)
