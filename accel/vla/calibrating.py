"""Measuring a live policy on observations of its own, for the caches that are made from that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..caches import CACHES
from ..calibration import MIN_QUERIES, Calibration, calibrate
from ..protocol import Compute
from .queries import Run, predict, rows_of
from .structure import find_vla
from .view import View

NEEDED = tuple(dict.fromkeys(name for cache in ("bac", "hash_ab") for name in CACHES[cache].needs))
"""Statistics of the calibrated caches that are offered."""


def calibrate_vla(
    policy: Any,
    batches: Sequence[Any],
    seed: int = 0,
    run: Run = predict,
    n_steps: int | None = None,
    progress: bool = True,
) -> Calibration:
    """Statistics of what the expert's layers add, for cache=bac and cache=hash_ab.

    Args:
        policy: live, in eval mode; left as it was.
        batches: as its `predict_action_chunk` takes them, at least 8 rows together, from several
            episodes and their phases.
        seed: of the noise of the queries.
        run: how a batch of one row is run with given noise; see `queries.Run`.
        n_steps: Euler steps of a query; None: as the policy's config says.
        progress: show a bar where there is a terminal.

    Raises:
        TypeError: the policy has another structure.
        ValueError: fewer than 8 rows, or a batch that has no one number of rows.
        RuntimeError: it is in training mode, or goes around its layers.
    """
    vla = find_vla(policy, n_steps)
    if vla.core.training:
        raise RuntimeError("the policy must be in eval mode: call policy.eval() first")
    queries = rows_of(batches)
    if len(queries) < MIN_QUERIES:
        raise ValueError(
            f"calibration needs at least {MIN_QUERIES} queries, got {len(queries)} rows in "
            f"{len(batches)} batches"
        )
    noise = [torch.Generator().manual_seed(seed + i) for i in range(len(queries))]
    numbers = torch.arange(len(queries))[:, None]
    view = View(vla, queries, run, _tokens(View(vla, queries, run)))
    source = {"queries": len(queries), "seed": seed, "steps": vla.n_steps}
    with torch.no_grad():
        return calibrate(view, numbers, noise, 1, progress, source, NEEDED)  # type: ignore[arg-type]


def _tokens(view: View) -> int:
    """Of the expert's stream: seen in one query."""
    seen: list[int] = []

    def see(step: int, site: int, compute: Compute) -> Tensor:
        value = compute()
        seen.append(value.shape[-2])
        return value

    with torch.no_grad():
        view.denoise(torch.zeros((1, 1), dtype=torch.long), [torch.Generator()], see)
    return seen[0]
