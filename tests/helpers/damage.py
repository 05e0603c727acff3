"""Mutations of files: those of tools.chaos, and the ways in which a file is torn."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tools.chaos.mutations import DEEP, changed, flipped

__all__ = ["DEEP", "TORN", "as_json", "changed", "flipped"]

TORN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "half": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"\xff\xfe\x00garbage",
    "deep": lambda content: DEEP.encode(),
    "a list": lambda content: b"[1]",
    "a word": lambda content: b"word",
}


def as_json(value: Any) -> str:
    """Also with NaN and infinity, which JSON has not."""
    return json.dumps(value)
