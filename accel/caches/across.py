"""The setting `across` of caches: later queries of an episode take values of the query before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from ..plans.across import BEFORE, REFRESH, Across
from ..protocol import Accelerable


class AcrossConfig(Protocol):
    """What a cache with the setting has."""

    steps: int
    across: bool
    refresh: int


def check_across(config: AcrossConfig) -> None:
    """ValueError where the settings do not fit each other."""
    if type(config.refresh) is not int or config.refresh < 0 or config.refresh == 1:
        raise ValueError(
            f"cache.refresh must be 0 (never) or at least 2 queries, got {config.refresh}"
        )
    if not config.across and config.refresh != REFRESH:
        raise ValueError(
            f"cache.refresh={config.refresh} needs cache.across=true, got cache.across=false"
        )
    if config.across and config.steps < 2:
        raise ValueError(
            f"cache.across=true needs cache.steps of at least 2, got {config.steps}: half of the "
            "update steps are taken from the query before"
        )


def settings_of(config: Any) -> dict[str, Any]:
    """All settings of a cache; `across` and its `refresh` only where a query reaches back.

    So a run without it is what it was before they were there.
    """
    found = asdict(config)
    if not found.get("across", True):
        del found["across"], found["refresh"]
    return found


def across_identity(config: Any, policy: Accelerable) -> dict[str, Any]:
    """What of the settings changes an action."""
    return settings_of(config)


def said_of(config: AcrossConfig) -> str:
    """For a plan's `method`; empty without."""
    return f" across refresh={config.refresh}" if config.across else ""


def first_half(mask: np.ndarray, steps: Sequence[int], refresh: int) -> Across:
    """Later queries take all sites of the first half of the update steps, as they are.

    The first half, rounded down, is the noisier one, where an error moves the actions least.

    Args:
        mask: (N, n_sites) of a full query.
        steps: its update steps, of all sites.
        refresh: see `Across`.
    """
    alpha = np.zeros((*mask.shape, 2))
    alpha[list(steps[: len(steps) // 2]), :, BEFORE] = 1.0
    return Across(alpha, refresh)
