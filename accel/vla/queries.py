"""Queries of a live policy: its own batches, row by row, with noise of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .structure import CHUNK, WIDTH, Vla

Run = Callable[[Any, Any, Tensor], Tensor]
"""(policy, a batch of one row, noise (1, chunk, action width)) -> actions (1, steps, width)."""


def predict(policy: Any, batch: Any, noise: Tensor) -> Tensor:
    """As LeRobot's policies are asked for a chunk."""
    found: Tensor = policy.predict_action_chunk(_owned(batch), noise=noise)
    return found


def rows_of(batches: Sequence[Any]) -> list[Any]:
    """Batches of one row each; those that are no mappings must be that already."""
    return [row for batch in batches for row in _rows(batch)]


def _rows(batch: Any) -> list[Any]:
    if not isinstance(batch, Mapping):
        return [batch]
    lengths = {len(v) for v in batch.values() if isinstance(v, Tensor) and v.ndim}
    if len(lengths) != 1:
        raise ValueError(
            f"tensors of a batch must have one number of rows, got {sorted(lengths) or 'none'}"
        )
    n = lengths.pop()
    return [{key: _row(value, i, n) for key, value in batch.items()} for i in range(n)]


def _row(value: Any, i: int, n: int) -> Any:
    if isinstance(value, Tensor) and value.ndim:
        return value[i : i + 1]
    return value[i : i + 1] if isinstance(value, list | tuple) and len(value) == n else value


def _owned(batch: Any) -> Any:
    """Copies, since some policies change their batch in place."""
    if not isinstance(batch, Mapping):
        return batch
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in batch.items()}


def draw(vla: Vla, generator: torch.Generator) -> Tensor:
    """(1, chunk, action width) of noise, as the policy would draw it.

    Raises:
        ValueError: its config does not say how much.
    """
    chunk, width = vla.setting(CHUNK), vla.setting(WIDTH)
    if chunk is None or width is None:
        raise ValueError(
            f"the config of {type(vla.core).__name__} must have {' or '.join(CHUNK)} and "
            f"{' or '.join(WIDTH)}, from which noise is drawn"
        )
    noise = torch.randn((1, chunk, width), generator=generator)
    return noise.to(next(vla.core.parameters()).device)
