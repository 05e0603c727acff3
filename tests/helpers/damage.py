"""Mutations of files: of their bytes, and of the values in them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 10**18, 10**400, 0.5, -0.5, 1e300),
    *(float("nan"), float("inf"), "", "x", "../../etc/passwd", "1", "*" * 300),
    *([], [0], [[0]], {}, {"a": 1}, [None], {"name": {}}),
)
DEEP = "[" * 100_000


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and index of nested mappings and lists; of long lists the first ones."""
    items = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value[:3]))
        if isinstance(value, list)
        else []
    )
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def changed(value: Any, rng: random.Random) -> Any:
    """A copy with one value replaced, removed, doubled or put under another key."""
    found = copy.deepcopy(value)
    chosen = list(places(found))
    if not chosen or rng.random() < 0.03:
        return rng.choice(VALUES)
    *path, key = rng.choice(chosen)
    inside = found
    for step in path:
        inside = inside[step]
    kind = rng.random()
    if kind < 0.15:
        del inside[key]
    elif kind < 0.25 and isinstance(inside, dict):
        inside[f"{key}_"] = inside.pop(key)
    elif kind < 0.35 and isinstance(inside, list):
        inside.append(inside[key])
    else:
        inside[key] = rng.choice(VALUES)
    return found


def flipped(content: bytes, rng: random.Random) -> bytes:
    """A byte changed, a piece cut out, doubled or zeroed, or the end torn off."""
    if not content:
        return b"\0"
    at, n = rng.randrange(len(content)), rng.choice((1, 1, 8, 64))
    piece = content[at : at + n]
    return rng.choice(
        (
            content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :],
            content[:at] + content[at + n :],
            content[:at] + piece + piece + content[at + n :],
            content[:at] + bytes(len(piece)) + content[at + n :],
            content[:at],
        )
    )


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
