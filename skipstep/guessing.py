"""What a name that is not there was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def guess(name: str, allowed: Iterable[str]) -> str:
    """The end of an error: `; did you mean uniform?`, or nothing where no name is like it.

    Example:
        >>> guess("hash_ba", ["uniform", "hash_ab"])
        '; did you mean hash_ab?'
    """
    near = get_close_matches(name, list(allowed), 1)
    return f"; did you mean {near[0]}?" if near else ""
