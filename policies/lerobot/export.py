"""A UNet policy as a folder that LeRobot 0.4 loads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..data.modes import EPS
from ..policy import DiffusionPolicy
from .features import Feature, Features
from .keys import WEIGHTS, theirs
from .normalization import Statistics
from .processors import POSTPROCESSOR, PREPROCESSOR
from .said import said_by
from .settings import CONFIG
from .statistics import written_normalizer

STATE_FILES = {
    PREPROCESSOR: "policy_preprocessor_step_3_normalizer_processor.safetensors",
    POSTPROCESSOR: "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
}
Step = dict[str, Any]


def export_lerobot(
    policy: DiffusionPolicy, folder: str | Path, state_dim: int | None = None
) -> None:
    """Write what `DiffusionPolicy.from_pretrained` and the processors of LeRobot 0.4.4 read.

    Args:
        policy: a UNet that sees observations in all of its blocks.
        folder: new, or one that this wrote before.
        state_dim: of a policy that sees one array: how many of its numbers are observation.state;
            the others become observation.environment_state, which LeRobot wants beside it.

    Raises:
        UnsupportedPolicy, ValueError: a setting that LeRobot's form cannot say, by name and with
            the reason; a folder that holds something else. Nothing is written then.
    """
    folder = Path(folder)
    said, features = said_by(policy.config, state_dim)
    kinds, statistics = written_normalizer(policy.normalizer, features, state_dim)
    said["normalization_mapping"] = kinds
    pipelines = {
        PREPROCESSOR: _preprocessor(features, kinds),
        POSTPROCESSOR: _postprocessor(features, kinds),
    }
    flat = _flat(statistics)
    writers: dict[str, Callable[[Path], Any]] = {
        WEIGHTS: lambda p: save_file(_weights(policy), p, {"format": "pt"}),
        CONFIG: lambda p: p.write_text(_json(said)),
        **{name: _text(content) for name, content in pipelines.items()},
        **{name: lambda p: save_file(flat, p) for name in STATE_FILES.values()},
    }
    _check_folder(folder, writers)
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in writers.items():
        temporary = folder / f".{name}.tmp"
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, folder / name)


def _text(content: Mapping[str, Any]) -> Callable[[Path], Any]:
    return lambda path: path.write_text(_json(content))


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2)


def _check_folder(folder: Path, names: Mapping[str, Any]) -> None:
    others = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if others := [name for name in others if name not in names]:
        raise ValueError(f"{folder} must be new, or of an earlier export, it holds {others[0]}")


def _weights(policy: DiffusionPolicy) -> dict[str, Tensor]:
    encoder = policy.config.encoder
    shared = encoder is not None and encoder.shared
    buffers = {name for name, _ in policy.named_buffers()}
    return {
        theirs(key, shared): (value if key in buffers else value.float())
        .detach()
        .cpu()
        .contiguous()
        for key, value in policy.state_dict().items()
        if not key.startswith("normalizer.")
    }


def _flat(statistics: Statistics) -> dict[str, Tensor]:
    return {
        f"{feature}.{name}": value.clone()  # parts of one tensor are not saved
        for feature, values in statistics.items()
        for name, value in values.items()
    }


def _described(feature: Feature) -> dict[str, Any]:
    return {"type": feature.kind, "shape": list(feature.shape)}


def _normalizing(name: str, seen: tuple[Feature, ...], kinds: Mapping[str, str], file: str) -> Step:
    described = {feature.theirs: _described(feature) for feature in seen}
    config = {"eps": EPS, "features": described, "norm_map": dict(kinds)}
    return {"registry_name": name, "config": config, "state_file": STATE_FILES[file]}


DEVICE: Step = {
    "registry_name": "device_processor",
    "config": {"device": "cpu", "float_dtype": None},
}


def _preprocessor(features: Features, kinds: Mapping[str, str]) -> dict[str, Any]:
    everything = (*features.inputs, features.action)
    steps = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        DEVICE,
        _normalizing("normalizer_processor", everything, kinds, PREPROCESSOR),
    ]
    return {"name": "policy_preprocessor", "steps": steps}


def _postprocessor(features: Features, kinds: Mapping[str, str]) -> dict[str, Any]:
    action = (features.action,)
    step = _normalizing("unnormalizer_processor", action, kinds, POSTPROCESSOR)
    return {"name": "policy_postprocessor", "steps": [step, DEVICE]}
