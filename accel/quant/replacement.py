"""A model with other layers in the places of some of its own."""

from __future__ import annotations

import copy

from torch import nn

from .attention import Attention
from .convolution import quantised
from .linear import QuantisedLinear


def replace_layers(
    model: nn.Module, layers: dict[str, QuantisedLinear], attentions: dict[str, bool]
) -> nn.Module:
    """A deep copy with these layers in place; attentions ({name: cross}) are opened first."""
    memo: dict[int, nn.Module] = {}
    for name, module in model.named_modules():
        if name in attentions:
            assert isinstance(module, nn.MultiheadAttention)
            opened = copy.deepcopy(Attention.from_stock(module, attentions[name], name))
            for child, _ in list(opened.named_children()):
                if f"{name}.{child}" in layers:
                    setattr(opened, child, layers[f"{name}.{child}"])
            memo[id(module)] = opened
        elif name in layers:
            memo[id(module)] = quantised(layers[name], module)
    return copy.deepcopy(model, memo)  # takes what memo has instead of copying it
