"""The DiT's record."""

from __future__ import annotations

import torch
from torch import nn

from ..family import Family, Recipe
from ..initial_weights import torch_weights
from .config import DitConfig
from .network import Dit, Modulation

POSITIONS_STD = 0.02


@torch.no_grad()
def dit_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Torch's own, and modulations that are 0, so that every block begins as nothing."""
    torch_weights(model, generator)
    for module in model.modules():
        if isinstance(module, Modulation):
            module.linear.weight.zero_()
            module.linear.bias.zero_()
    positions = getattr(model, "pos_embedding", None)
    if positions is not None:
        positions.normal_(0.0, POSITIONS_STD, generator=generator)


DIT = Family(
    sizes=DitConfig,
    network=Dit,
    recipe=Recipe(dit_weights, 3e-4, 1e-3, (0.9, 0.95), lambda parameter: parameter.ndim == 2),
)
