"""The noise of a query, from one generator as a whole or from one a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipstep.starts import RowNoise, row_noise

Noise = torch.Generator | Sequence[RowNoise]


def draw(noise: Noise, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise (B, T, D): from one generator as a whole, or row by row."""
    if isinstance(noise, torch.Generator):
        return torch.randn(shape, generator=noise)
    if not noise:
        return torch.empty(0, *shape[1:])
    return torch.cat([row_noise(row, (1, *shape[1:])) for row in noise])
