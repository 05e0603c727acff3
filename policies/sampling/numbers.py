"""Numbers as a user gives them to a sampler."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np


def whole(name: str, value: Any) -> int:
    """An int, from what counts as one; ValueError for truth values, fractions and texts."""
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"sampler.{name} must be whole numbers, got {value}")
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"sampler.{name} must be whole numbers, got {value!r}") from None


def number(name: str, value: Any) -> float:
    """A float; ValueError for what is none."""
    if isinstance(value, bool | np.bool_ | str) or not np.isreal(value):
        raise ValueError(f"sampler.{name} must be a number, got {value!r}")
    return float(value)
