"""What a dataset in robomimic's format says of the environment that it was recorded in."""

from __future__ import annotations

import json
from typing import Any

ROBOSUITE_TYPE = 1


def parsed(recorded: Any, setting: str, path: str) -> dict[str, Any]:
    """An env_args as the dictionary that it must be; robomimic writes it as JSON.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(recorded, (str, bytes)):
        try:
            recorded = json.loads(recorded)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{setting} must be JSON in {path} ({error})") from error
    if not isinstance(recorded, dict):
        got = " ".join(repr(recorded).split())[:80]
        raise ValueError(f"{setting} must be a dictionary in {path}, got {got}")
    return recorded
