"""What a query's trajectory is held to while it is denoised: actions that are decided already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .starts import RowNoise, Started


@dataclass(frozen=True)
class Held:
    """Known actions of each row, as noisy as the trajectory is after each step.

    Replacing what is known after every step is in-painting (Lugmayr et al. 2022, arXiv 2201.09865,
    without its resampling); weights between 0 and 1 replace a part of it.

    Attributes:
        table: (N, B, T, A) normalised.
        weight: (B, T, 1) from 0, nothing is held, to 1.
    """

    table: Tensor
    weight: Tensor

    def apply(self, s: int, x: Tensor) -> Tensor:
        """The trajectory (B, T, D) after step s, of which the first A columns are actions."""
        n, length = self.table.shape[-1], x.shape[1]
        weight, known = self.weight[:, :length].to(x.device), self.table[s, :, :length].to(x.device)
        return torch.cat([(1 - weight) * x[..., :n] + weight * known, x[..., n:]], dim=-1)

    def of(self, rows: slice, length: int) -> Held:
        """Of some rows' first `length` positions, both tensors contiguous."""
        table, weight = self.table[:, rows, :length], self.weight[rows, :length]
        return Held(table.contiguous(), weight.contiguous())


class Sampling(Protocol):
    """What is asked of a policy: its sampler's levels of noise, and how wide an action is."""

    @property
    def alpha_bar(self) -> np.ndarray: ...

    @property
    def action_dim(self) -> int: ...


def held_by(noise: torch.Generator | Sequence[RowNoise], policy: Sampling) -> Held | None:
    """What the rows of a query hold their trajectories to, after their first draw; None: nothing.

    Args:
        noise: of the query; rows that are `Started` with a `weight` hold to their guess.
        policy: its `alpha_bar` is (N,) of the trajectory that each step sees; after the last one it
            is 1. The first `action_dim` columns of a trajectory are actions.

    Example:
        >>> guess, known = torch.ones(4, 2), torch.ones(4, dtype=torch.bool)
        >>> weight = torch.tensor([1.0, 0.5, 0.0, 0.0])
        >>> row = Started(torch.Generator().manual_seed(0), guess, known, 0.0, 1.0, weight)
        >>> _ = row.draw((1, 4, 2))
        >>> from types import SimpleNamespace
        >>> policy = SimpleNamespace(alpha_bar=np.array([0.0, 0.5]), action_dim=2)
        >>> held_by([row], policy).apply(1, torch.zeros(1, 4, 2))[0, :, 0].tolist()
        [1.0, 0.5, 0.0, 0.0]
    """
    rows = [] if isinstance(noise, torch.Generator) else list(noise)
    holding = [r for r in rows if isinstance(r, Started) and r.weight is not None]
    if not holding:
        return None
    after = torch.from_numpy(np.append(policy.alpha_bar[1:], 1.0)).float()[:, None, None]
    signal, sigma = after.sqrt(), (1 - after).sqrt()
    length, n_columns = len(holding[0].guess), policy.action_dim
    table = torch.zeros(len(after), len(rows), length, n_columns)
    weight = torch.zeros(len(rows), length, 1)
    for index, row in enumerate(rows):
        if isinstance(row, Started) and row.weight is not None:
            assert row.first is not None, "the first draw comes before this"
            guess, first = row.guess[:, :n_columns], row.first[:, :n_columns]
            table[:, index] = signal * guess + sigma * first
            weight[index, :, 0] = row.weight
    return Held(table, weight)
