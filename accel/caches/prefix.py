"""Where to compute, by layers: the whole network on few steps, its first layers on more.

Not from a paper. BAC's bubbling union computes volatile early blocks also where later ones are
computed; here the first layers get update steps of their own. Nothing that is computed rests on
something stale, which scattered cells do, and what is reused is reused in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..calibration.branch_outputs import squared_distances
from .schedules import optimal_schedules


@dataclass(frozen=True)
class EarlyLayers:
    """Further update steps of the first layers.

    Attributes:
        depth: how many layers; 0 if there are no further steps.
        steps: those that only these layers have, ascending.
        error: the action error that the calibration predicts, RMS, normalised units.
    """

    depth: int
    steps: list[int]
    error: float


def early_layers(
    stream: np.ndarray, sensitivity: np.ndarray, full: Sequence[int], extra: float
) -> EarlyLayers:
    """The first layers and their further steps with the smallest predicted action error.

    What leaves the layers in step t is off by the stale sums of the layers that were reused; the
    action's squared error is predicted as the sum over steps of that, squared, times the step's
    sensitivity. For every depth the best steps come from the dynamic programme of BAC.

    Args:
        stream: (L, N, L, N), `Calibration.stream`.
        sensitivity: (N,), `Calibration.sensitivity`.
        full: steps that compute all layers, step 0 among them.
        extra: FLOPs of the further steps, in those of `full`.
    """
    n_layers, n_steps = stream.shape[:2]
    whole = squared_distances(stream.sum(axis=(0, 2)))[_newest(full, n_steps), np.arange(n_steps)]
    best, least = (0, list(full)), float(whole @ sensitivity)
    for depth in range(1, n_layers):
        further = min(int(extra * len(full) * n_layers / depth + 1e-9), n_steps - len(full))
        if further < 1:
            continue
        errors = stale_errors(stream, depth, full) * sensitivity
        fresh = np.diag(errors)
        found = optimal_schedules(fresh - errors, 1 + further)
        error = float(fresh.sum() - found.value[further])
        if error < least:
            best, least = (depth, found.steps(1 + further)), error
    depth, steps = best
    return EarlyLayers(depth, sorted(set(steps) - set(full)), float(np.sqrt(max(least, 0))))


def stale_errors(stream: np.ndarray, depth: int, full: Sequence[int]) -> np.ndarray:
    """(N, N) [p, t]: squared error in step t if the first layers were last computed in step p.

    The other layers were last computed in the newest of `full`, which counts for the first layers
    too. Steps p > t mean nothing.
    """
    first = stream[:depth, :, :depth].sum(axis=(0, 2))
    late = stream[depth:, :, depth:].sum(axis=(0, 2))
    cross = stream[:depth, :, depth:].sum(axis=(0, 2))
    t = np.arange(len(first))
    f = _newest(full, len(t))
    p = np.maximum(t[:, None], f)
    between = cross[p, f] - cross[p, t] - cross[t, f] + np.diag(cross)
    rest = squared_distances(late)[f, t]
    return np.asarray(np.maximum(squared_distances(first)[p, t] + rest + 2 * between, 0))


def _newest(full: Sequence[int], n_steps: int) -> np.ndarray:
    """(n_steps,): the newest of the steps `full` at every step."""
    t = np.arange(n_steps)
    return np.maximum.accumulate(np.where(np.isin(t, full), t, 0))
