"""How a LeRobot policy normalises, and by which statistics; both are in its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.modes import MODES
from .features import Feature, Features
from .keys import WEIGHTS, check_shape
from .processors import POSTPROCESSOR, PREPROCESSOR, Steps, normalization_in, statistic
from .settings import CONFIG

SINCE_0_4 = {
    "MIN_MAX": "min_max",
    "MEAN_STD": "mean_std",
    "QUANTILES": "quantiles",
    "QUANTILE10": "quantile10",
    "IDENTITY": "identity",
}
IN_0_3 = {"MIN_MAX": "min_max_eps", "MEAN_STD": "mean_std", "IDENTITY": "identity"}
BUFFERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
SAME = ("normalize_targets", "unnormalize_outputs")  # of the action: of the training, of the policy

Statistics = dict[str, dict[str, Tensor]]
"""{our name: {statistic: tensor}}"""
Find = Callable[[Feature, str], tuple[str, str, Tensor | None]]
"""Of a feature and a statistic: the file, the key, and what is there."""


def modes_of(
    norm_map: Mapping[str, Any], features: Features, table: Mapping[str, str], where: str
) -> dict[str, str]:
    """{LeRobot's name of a feature: mode}; a kind that the map lacks is not normalised.

    Raises:
        ValueError: an unknown mode.
    """
    for kind, mode in norm_map.items():
        if mode not in table:
            raise ValueError(f"{where}.{kind} must be one of {', '.join(table)}, got {mode!r}")
    everything = (*features.inputs, features.action)
    return {f.theirs: table[norm_map.get(f.kind, "IDENTITY")] for f in everything}


def of_processors(
    folder: Path, norm_map: Mapping[str, Any], features: Features, others: Steps | None = None
) -> tuple[dict[str, str], Statistics]:
    """From 0.4 on: modes by our names, and the statistics that the two pipelines name.

    others: see `normalization_in`.
    """
    modes = modes_of(norm_map, features, SINCE_0_4, f"{CONFIG}: normalization_mapping")
    before, after = (
        normalization_in(folder, file, features, others) for file in (PREPROCESSOR, POSTPROCESSOR)
    )
    for step in (before, after):
        own = modes_of(step.norm_map, features, SINCE_0_4, f"{step.file}: norm_map")
        for feature in (*features.seen, features.action):
            if own[feature.theirs] != modes[feature.theirs]:
                raise ValueError(
                    f"{step.file}: norm_map contradicts normalization_mapping of {CONFIG}: "
                    f"{feature.kind} {own[feature.theirs]}, {modes[feature.theirs]}"
                )
    found: Statistics = {}
    for feature in features.seen:
        mode = modes[feature.theirs]
        found[feature.ours] = _taken(feature, mode, lambda f, n: statistic(before, f, n))
    action, mode = features.action, modes[features.action.theirs]
    found[action.ours] = _taken(action, mode, lambda f, n: statistic(after, f, n))
    trained = _taken(action, mode, lambda f, n: statistic(before, f, n))
    _check_same(trained, found[action.ours], before.state_file, after.state_file)
    return _by_our_names(modes, features), found


def of_buffers(
    state: dict[str, Tensor], norm_map: Mapping[str, Any], features: Features
) -> tuple[dict[str, str], Statistics]:
    """Of 0.3: the statistics are buffers among the weights, and are taken out of `state`."""
    modes = modes_of(norm_map, features, IN_0_3, f"{CONFIG}: normalization_mapping")
    needed = [f.theirs for f in (*features.seen, features.action) if modes[f.theirs] != "identity"]
    if needed and not any(key.startswith(BUFFERS) for key in state):
        raise ValueError(
            f"{PREPROCESSOR} (0.4 and later) is missing, and {WEIGHTS} has no statistics "
            f"(normalize_inputs.*, 0.3): {needed[0]} cannot be normalised"
        )

    def found_in(module: str) -> Find:
        def find(feature: Feature, name: str) -> tuple[str, str, Tensor | None]:
            key = f"{module}.buffer_{feature.theirs.replace('.', '_')}.{name}"
            return WEIGHTS, key, state.pop(key, None)

        return find

    read = {
        f.theirs: _taken(f, modes[f.theirs], found_in("normalize_inputs")) for f in features.inputs
    }
    found = {f.ours: read[f.theirs] for f in features.seen}
    action = features.action
    trained, acted = (_taken(action, modes[action.theirs], found_in(name)) for name in SAME)
    _check_same(trained, acted, *(f"{WEIGHTS}: {name}" for name in SAME))
    return _by_our_names(modes, features), {**found, action.ours: acted}


def _taken(feature: Feature, mode: str, find: Find) -> dict[str, Tensor]:
    """The statistics of a feature.

    Raises:
        ValueError: one that its mode needs is missing, of another shape, or not finite.
    """
    found = {}
    for name in MODES[mode].statistics:
        file, key, value = find(feature, name)
        if value is None:
            raise ValueError(f"{file}: {key} is missing, which {mode} of {feature.theirs} needs")
        check_shape(file, key, value, feature.statistics_shape)
        value = value.to(torch.float32)
        if not bool(value.isfinite().all()):
            raise ValueError(f"{file}: {key} holds NaN or infinite values")
        found[name] = value
    return found


def _check_same(trained: Mapping[str, Tensor], acted: Mapping[str, Tensor], *files: str) -> None:
    for name, value in acted.items():
        if not torch.equal(value, trained[name]):
            raise ValueError(f"{files[0]} and {files[1]} have another {name} of action")


def _by_our_names(modes: Mapping[str, str], features: Features) -> dict[str, str]:
    return {f.ours: modes[f.theirs] for f in (*features.seen, features.action)}
