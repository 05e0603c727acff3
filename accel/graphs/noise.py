"""The noise of a query as one tensor, drawn as the library draws it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def noise_shape(policy: Any, batch: int) -> tuple[int, int, int, int]:
    """(draws, B, T, input_dim): the initial trajectory, and one for each step that draws."""
    draws = 1 + int(policy.table.draws.sum())
    return draws, batch, policy.config.length, policy.config.network.input_dim


def query_noise(policy: Any, seeds: Sequence[int]) -> Tensor:
    """What a graph of this policy takes as noise.

    With it a graph gives the actions that `act` gives with
    `noise=[torch.Generator().manual_seed(seed) for seed in seeds]`, and the accelerated policy of
    `accelerate` with `seed=s` for seeds s, s + 1, ...

    Args:
        policy: a `DiffusionPolicy` with the sampler of the graph.
        seeds: one a row.

    Returns:
        (draws, B, T, input_dim) float32, standard normal.

    Example:
        >>> from policies import load_policy
        >>> policy = load_policy("checkpoints/kitchen").with_sampler("ddpm", 5)
        >>> tuple(query_noise(policy, seeds=[0]).shape)
        (6, 1, 16, 9)
    """
    draws, _, *shape = noise_shape(policy, len(seeds))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    rows = [[torch.randn((1, *shape), generator=g) for g in generators] for _ in range(draws)]
    return torch.stack([torch.cat(row) for row in rows])


DRAWING = (
    "standard normal numbers. To agree with the library on a seed: for each row r of the batch "
    "g = torch.Generator().manual_seed(seed + r), then for each draw in its order "
    "noise[draw, r] = torch.randn((1, *noise.shape[2:]), generator=g)[0]"
)
