"""Datasets as one HDF5 in the layout of robomimic 0.3.

An image `image.<camera>` is `<camera>_image` there, (T, H, W, C), and is compressed. Beyond that
layout a demonstration has `executed_actions`, what was done where `actions` is what the
expert meant, and the attributes `seed`, `success` and `sigma`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.observations import IMAGE, is_image
from skipstep.whole_files import replacing

from .demos import Demo, DemoSet


def write(path: Path, content: DemoSet) -> None:
    """Write by rename; the same episodes give the same bytes."""
    import h5py

    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["skipstep_run"] = content.fingerprint
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(content.task.env_args(), indent=4)
        lengths = [
            _write_demo(data.create_group(f"demo_{i}"), demo, content)
            for i, demo in enumerate(content.demos)
        ]
        data.attrs["total"] = sum(lengths)
        valid = content.valid()
        train = [i for i in range(len(lengths)) if i not in valid]
        for name, indices in (("train", train), ("valid", valid)):
            file[f"mask/{name}"] = np.array([f"demo_{i}" for i in indices], dtype="S16")


def _write_demo(group: Any, demo: Demo, content: DemoSet) -> int:
    steps, task = demo.load(), content.task
    group.attrs["num_samples"] = len(steps)
    group.attrs["seed"] = demo.seed
    group.attrs["success"] = demo.success
    group.attrs["sigma"] = demo.sigma
    if steps.model:
        group.attrs["model_file"] = steps.model
    group["actions"] = task.robomimic_actions(steps.actions)
    group["executed_actions"] = task.robomimic_actions(steps.executed)
    group["rewards"] = steps.rewards
    group["dones"] = steps.dones.astype(np.int64)
    if steps.states.shape[1]:
        group["states"] = steps.states[:-1]
    for name, values in content.parts(steps.obs).items():
        _write_seen(group, "obs", name, values[:-1])
        _write_seen(group, "next_obs", name, values[1:])
    return len(steps)


def _write_seen(group: Any, side: str, name: str, values: NDArray[Any]) -> None:
    if not is_image(name):
        group[f"{side}/{name}"] = values
        return
    frames = np.moveaxis(values, 1, -1)
    where, chunks = f"{side}/{name.removeprefix(IMAGE)}_image", (1, *frames.shape[1:])
    group.create_dataset(where, data=frames, chunks=chunks, compression="gzip")


def owner(path: Path) -> str | None:
    """The fingerprint of the run that wrote this file, if it is one of ours."""
    import h5py

    try:
        with h5py.File(path) as file:
            return str(file.attrs["skipstep_run"])
    except (OSError, KeyError):
        return None
