"""Whether the settings of a dataclass have the types that it names; files are read into such.

YAML and JSON let `true` stand where a number should, "no" where a truth value should, and NaN
anywhere; nothing is converted, so that settings stay as they are written.
"""

from __future__ import annotations

import math
import operator
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MOST = 2**31  # of whole numbers that no other bound is known of


def _is_whole(value: Any) -> bool:
    try:
        return not isinstance(value, bool | np.bool_) and abs(operator.index(value)) < MOST
    except TypeError:
        return False


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_ | str | complex | np.complexfloating):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("a whole number", _is_whole),
    float: ("a finite number", _is_number),
    bool: ("true or false", lambda value: isinstance(value, bool | np.bool_)),
    str: ("a text", lambda value: isinstance(value, str)),
    list[int]: ("a list of whole numbers", lambda v: _is_list(v) and all(map(_is_whole, v))),
    list[float]: ("a list of finite numbers", lambda v: _is_list(v) and all(map(_is_number, v))),
}


def _is_list(value: Any) -> bool:
    """Of a live policy too, whose lists may be tuples, arrays, or those of its configuration."""
    return not isinstance(value, str | Mapping) and hasattr(value, "__len__")


def check_types(settings: Any, group: str = "", most: Mapping[str, float] | None = None) -> None:
    """Refuse a setting of another type than its field's, NaN, infinity, and what is too large.

    Args:
        settings: a dataclass; fields of other types than those of `KINDS` are left out.
        group: said before the names.
        most: {field: its largest value; of a list, its longest}.

    Raises:
        ValueError: one line with the setting, its value and what is allowed.

    Example:
        >>> from policies.config import TaskInfo
        >>> TaskInfo(abs_action="no")
        Traceback (most recent call last):
        ValueError: task.abs_action must be true or false or null, got 'no'
    """
    for name, hint in typing.get_type_hints(type(settings)).items():
        kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None)]
        kind = hint if hint in KINDS else kinds[0] if len(kinds) == 1 else None
        if kind not in KINDS or typing.get_origin(hint) is typing.ClassVar:
            continue
        value, (said, fits) = getattr(settings, name), KINDS[kind]
        or_null = hint != kind
        where = f"{group}.{name}" if group else name
        if not (fits(value) or (or_null and value is None)):
            shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:80]}..."
            raise ValueError(f"{where} must be {said}{' or null' * or_null}, got {shown}")
        limit = (most or {}).get(name)
        if limit is not None and value is not None:
            size, of = (len(value), " values") if _is_list(value) else (value, "")
            if size > limit:
                raise ValueError(f"{where} must be at most {limit}{of}, got {size}")
