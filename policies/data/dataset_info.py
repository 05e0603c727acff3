"""What a dataset says of its numbers and of the environment that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skipstep.plain_files import parse_json, read_json

RUN = "meta/skipstep.json"
NOT_ASKED = "not asked"
"""Of a dataset that has no place for the environment's arguments."""


def names_of(features: Any, key: str) -> tuple[str, ...] | None:
    """What info.json calls the numbers of a feature: a list, or a dictionary of lists or places.

    {"motors": ["a", "b"]}, {"a": 0, "b": 1} and ["a", "b"] all say ("a", "b").
    """
    feature = features.get(key) if isinstance(features, dict) else None
    said = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(said, dict):
        places: dict[str, Any] = said
        if all(isinstance(place, int) for place in places.values()):
            said = sorted(places, key=lambda name: int(places[name]))
        elif all(isinstance(group, list) for group in places.values()):
            said = [f"{group}/{name}" for group, names in places.items() for name in names]
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        return None
    return tuple(said) or None


def environment_in(attributes: Mapping[str, Any]) -> Any:
    """The env_args of robomimic's HDF5, made from what robosuite itself writes where it has none.

    Raises:
        ValueError: robosuite's env_info is not JSON.
    """
    if "env_args" in attributes or "env_info" not in attributes:
        return attributes.get("env_args")
    info = parse_json(attributes["env_info"])
    if not isinstance(info, dict):
        return info
    return {
        "env_name": info.get("env_name"),
        "type": 1,
        "env_version": attributes.get("repository_version"),
        "env_kwargs": {name: value for name, value in info.items() if name != "env_name"},
    }


def environment_of(folder: Path) -> Any:
    """The env_args that runner=collect puts beside what LeRobot knows; NOT_ASKED in other folders.

    Raises:
        ValueError: the file is not JSON.
    """
    path = folder / RUN
    if not path.is_file():
        return NOT_ASKED
    said = read_json(path)
    return said.get("env_args") if isinstance(said, dict) else None
