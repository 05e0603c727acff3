"""What values in files of a run may be: kinds, and mappings and lists made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

MANY = 10**7  # more episodes than any run has
MOST = 2**63  # no count, seed or number of FLOPs reaches it


class KindError(ValueError):
    """A value is of another kind; the message names its place, the value, and what is allowed."""


Kind = Callable[[Any, str], None]
"""Refuses (value, its place) with a `KindError`."""


def must(said: str, fits: Callable[[Any], bool]) -> Kind:
    """A kind of values that fit, which are described as `said`."""

    def check(value: Any, place: str) -> None:
        if not fits(value):
            raise KindError(f"{place} must be {said}, got {_short(value)}")

    return check


def _short(value: Any) -> str:
    text = type(value).__name__ if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # neither NaN nor infinity


def _is_beside(value: Any) -> bool:
    """Whether a path stays in the folder that it is in; links are left to who follows it."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts


WHOLE = must("a whole number, at least 0", _is_whole)
COUNT = must(f"a whole number from 0 to {MANY}", lambda v: _is_whole(v) and v <= MANY)
POSITIVE = must("a whole number, at least 1", lambda v: _is_whole(v) and v > 0)
NUMBER = must("a finite number", _is_number)
NOT_NEGATIVE = must("a finite number, at least 0", lambda v: _is_number(v) and v >= 0)
ABOVE_0 = must("a finite number above 0", lambda v: _is_number(v) and v > 0)
SHARE = must("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
TEXT = must("a text", lambda v: isinstance(v, str))
YES_NO = must("true or false", lambda v: isinstance(v, bool))
ANYTHING = must("", lambda v: True)
BESIDE = must("a path inside of the run's folder", _is_beside)
HASH = must("a hash", lambda v: isinstance(v, str) and bool(re.fullmatch(r"[\w .-]{1,200}", v)))


def one_of(*values: str) -> Kind:
    return must(" or ".join(map(repr, values)), lambda v: isinstance(v, str) and v in values)


def maybe(kind: Kind) -> Kind:
    """Or null."""

    def check(value: Any, place: str) -> None:
        if value is not None:
            kind(value, place)

    return check


def list_of(kind: Kind, length: int | None = None, least: int = 0) -> Kind:
    """A list; of that length, where one is given."""
    some = f" of at least {least} values" if least else ""
    said = f"a list of {length} values" if length is not None else f"a list{some}"

    def _fits(n: int) -> bool:
        return n >= least if length is None else n == length

    def check(value: Any, place: str) -> None:
        must(said, lambda v: isinstance(v, list) and _fits(len(v)))(value, place)
        for i, item in enumerate(value):
            kind(item, f"{place}[{i}]")

    return check


def table_of(kind: Kind) -> Kind:
    """A list of lists of one length."""
    rows = list_of(list_of(kind))

    def check(value: Any, place: str) -> None:
        rows(value, place)
        must("rows of one length", lambda v: len({len(row) for row in v}) < 2)(value, place)

    return check


def mapping_of(kind: Kind) -> Kind:
    """A mapping whose values are of a kind."""

    def check(value: Any, place: str) -> None:
        must("a mapping", lambda v: isinstance(v, dict))(value, place)
        for key, item in value.items():
            kind(item, f"{place}.{key}")

    return check


def record(needed: Mapping[str, Kind], further: Mapping[str, Kind] | None = None) -> Kind:
    """A mapping with the keys of `needed`; those of `further` may be there, and any others.

    Later versions may add keys.
    """
    known = {**needed, **(further or {})}

    def check(value: Any, place: str) -> None:
        must("a mapping", lambda v: isinstance(v, dict))(value, place or "it")
        for key in needed:
            if key not in value:
                raise KindError(f"{place}.{key} is missing".removeprefix("."))
        for key, kind in known.items():
            if key in value:
                kind(value[key], f"{place}.{key}".removeprefix("."))

    return check
