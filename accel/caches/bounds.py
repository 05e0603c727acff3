"""Bounds of a cache's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_least(config: Any, least: Mapping[str, float]) -> None:
    """ValueError where a setting is below its least value; null has none, NaN is below all."""
    for setting, bound in least.items():
        value = getattr(config, setting)
        if value is not None and not value >= bound:
            raise ValueError(f"cache.{setting} must be at least {bound}, got {value}")
