"""The order of an observation's numbers: what a dataset calls them, compared with what a task does.

A policy sees its observation without names, so demonstrations in another order than the simulator's
train, without a word, a policy that can only see scrambled input.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

AXES = "xyzw"  # quaternions have the real part last, as in robosuite and LeRobot
PREFIX = re.compile(r"^(observation|obs)[./]")
ROBOT = re.compile(r"^robot\d+_")  # robomimic's robot0_eef_pos is others' eef_pos
SHOWN = 8

Label = tuple[str, int | None]
"""(part of the task's observation, index in it; None where the name does not say)."""


@dataclass(frozen=True)
class Field:
    """Numbers that are one after the other in an observation.

    Attributes:
        key: of the dataset.
        width: how many numbers.
        names: what the dataset calls each of them, or each block of them; None: it does not say.
    """

    key: str
    width: int
    names: tuple[str, ...] | None = None


def column_order(fields: Iterable[Field], parts: Mapping[str, int]) -> list[int] | None:
    """Where each number of the task's observation stands in the dataset's.

    Args:
        fields: of the dataset, in the order in which they make an observation.
        parts: names and lengths of the task's observation, in order.

    Returns:
        The columns to take, in the task's order; None: as they are, because they are in that order,
        or because no name says anything.

    Raises:
        ValueError: the names contradict the task's, and do not say how to sort them.
    """
    fields = list(fields)
    if sum(field.width for field in fields) != sum(parts.values()):
        return None  # who reads it refuses the length
    labels = [label for field in fields for label in _labels(field, parts)]
    if not any(labels):
        _check_widths(fields, parts)
        return None
    known = [label for label in labels if label]
    if len(known) == len(labels) and Counter(part for part, _ in known) == Counter(parts):
        order = _sorted(known, parts)
        if order == list(range(len(order))):
            return None
        if len(fields) == 1:
            return order
    _check_places(labels, fields, parts)
    return None


def says_nothing(fields: Iterable[Field], parts: Mapping[str, int]) -> bool:
    """Whether numbers have names of which none is the task's."""
    fields = list(fields)
    named = any(field.names for field in fields)
    return named and not any(label for field in fields for label in _labels(field, parts))


def _labels(field: Field, parts: Mapping[str, int]) -> list[Label | None]:
    """For each number the part it belongs to, None where that is unknown."""
    key = _matched(field.key, parts)
    names = field.names or ()
    found = [_matched(name, parts) for name in names]
    if len(names) == field.width:
        if key and not any(found):  # "x", "y", "z" of a field that is a part
            found = [_matched(f"{key[0]}_{name}", parts) for name in names]
        return [(f[0], _index(f[1])) if f else None for f in found]
    if names and all(found) and sum(parts[f[0]] for f in found if f) == field.width:
        return [(f[0], i) for f in found if f for i in range(parts[f[0]])]
    if key and field.width == parts[key[0]]:
        return [(key[0], i) for i in range(field.width)]
    if key:
        return [(key[0], _index(key[1]) if field.width == 1 else None)] * field.width
    return [None] * field.width


def _matched(name: str, parts: Mapping[str, int]) -> tuple[str, str] | None:
    """(part, what the name adds to it), of the part with the longest name.

    A name may have a group before it, motors/robot0_eef_pos_x.
    """
    found: list[tuple[int, str, str]] = []
    pieces = name.split("/")
    for word in {PREFIX.sub("", name), *("/".join(pieces[i:]) for i in range(len(pieces)))}:
        for part in parts:
            for alias in {part, ROBOT.sub("", part)}:
                rest = word[len(alias) :]
                if word.startswith(alias) and not rest[:1].isalnum():
                    found.append((len(alias), part, rest))
    return max(found)[1:] if found else None


def _index(rest: str) -> int | None:
    word = rest.strip("_.-/:[]() ")
    if word.isdecimal():
        return int(word)
    return AXES.index(word.lower()) if len(word) == 1 and word.lower() in AXES else None


def _sorted(labels: list[Label], parts: Mapping[str, int]) -> list[int]:
    """Columns by part, in a part by index; where that is not complete, as they come."""
    order: list[int] = []
    for part, size in parts.items():
        columns = [i for i, label in enumerate(labels) if label[0] == part]
        indices = {i: labels[i][1] for i in columns}
        said = {index for index in indices.values() if index is not None}
        if said in (set(range(size)), set(range(1, size + 1))):
            columns.sort(key=lambda i: indices[i] or 0)
        order += columns
    return order


def _check_widths(fields: list[Field], parts: Mapping[str, int]) -> None:
    """Fields with names of their own, as many as the task's parts: their lengths tell an order."""
    widths, sizes = [field.width for field in fields], list(parts.values())
    if widths != sizes and sorted(widths) == sorted(sizes):
        raise _contradiction(fields, parts)


def _check_places(
    labels: list[Label | None], fields: list[Field], parts: Mapping[str, int]
) -> None:
    """What is known must stand where the task has it."""
    start = 0
    for part, size in parts.items():
        found = [(i, label[1]) for i, label in enumerate(labels) if label and label[0] == part]
        indices = [index for _, index in found if index is not None]
        if any(not start <= column < start + size for column, _ in found) or indices != sorted(
            indices
        ):
            raise _contradiction(fields, parts)
        start += size


def _contradiction(fields: list[Field], parts: Mapping[str, int]) -> ValueError:
    wanted = ", ".join(f"{part} ({size})" for part, size in parts.items())
    if len(fields) > 1:
        got = ", ".join(f"{field.key} ({field.width})" for field in fields)
    else:
        names = fields[0].names or ()
        more = ", ..." if len(names) > SHOWN else ""
        got = ", ".join(names[:SHOWN]) + more
    return ValueError(f"an observation must be {wanted}, in this order, got {got}")
