"""The setting `across` of caches: later queries of an episode take values of the query before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..calibration.across import moments_of
from ..calibration.calibration import Calibration
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


@dataclass(frozen=True)
class _Cell:
    """A computed cell, what a later query would hold there, and what that would do.

    Attributes:
        step, site: of the cell.
        anchor: step of the site's value before it; None: there is none.
        weights: of that value, and of the query before's in this cell.
        harm: squared error of what is held, as far as it moves the action until the site's next
            computed step.
    """

    step: int
    site: int
    anchor: int | None
    weights: tuple[float, float]
    harm: float


def least_harm(
    mask: np.ndarray,
    costs: np.ndarray,
    calibration: Calibration,
    refresh: int,
    bias: np.ndarray | None,
    drift: bool,
) -> tuple[Across, np.ndarray | None]:
    """Later queries take the cells that the calibration says do least harm: half of the FLOPs.

    A taken cell holds the site's last value of this query and the query before's value of the cell,
    with weights of least squared error over the calibration's pairs of queries; with drift, of how
    both are off the mean of their steps, which a bias then adds. What is taken into account is
    each cell's own error, not that of an anchor that is taken itself.

    Args:
        mask: (N, n_sites) of a full query.
        costs: (n_sites,) FLOPs.
        calibration: with `across` and `sensitivity`.
        refresh: see `Across`.
        bias: of the plan's hits, (N, n_sites, tokens, width), or None.
        drift: see `HashAbConfig`.

    Returns:
        What is taken, and the bias with that of the taken cells.
    """
    cells = _cells(mask, calibration, drift)
    room = float((mask @ costs).sum()) / 2
    alpha, mean = np.zeros((*mask.shape, 2)), calibration.mean if drift else None
    if mean is not None:
        bias = np.zeros((*mask.shape, *mean.shape[2:]), np.float32) if bias is None else bias.copy()
    for cell in sorted(cells, key=lambda cell: cell.harm / float(costs[cell.site])):
        s, u, own, before = cell.step, cell.site, *cell.weights
        room -= float(costs[u])
        if room < 0:
            break
        alpha[s, u] = own, before
        if mean is not None and bias is not None:
            last = 0 if cell.anchor is None else own * mean[u, cell.anchor]
            bias[s, u] = (1 - before) * mean[u, s] - last
    return Across(alpha, refresh), bias


def _cells(mask: np.ndarray, calibration: Calibration, drift: bool) -> list[_Cell]:
    moments, found = moments_of(dict(calibration.arrays), centred=drift), []
    for u in range(mask.shape[1]):
        steps = np.flatnonzero(mask[:, u]).tolist()
        for i, step in enumerate(steps):
            anchor = steps[i - 1] if i else None
            fit = moments.fit(u, step, anchor)
            until = steps[i + 1] if i + 1 < len(steps) else len(mask)
            harm = fit.error * float(calibration.sensitivity[step:until].sum())
            if fit.before:
                found.append(_Cell(step, u, anchor, (fit.own, fit.before), harm))
    return found
