"""A model with other layers in the places of some of its own."""

from __future__ import annotations

import copy
from typing import Any

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
                if layer := layers.get(f"{name}.{child}"):
                    setattr(
                        opened, child, _known_as(layer, f"{name}.{child}", module.in_proj_weight)
                    )
            memo[id(module)] = opened
        elif name in layers:
            made = quantised(layers[name], module)
            memo[id(module)] = _known_as(made, name, module.weight)
    return copy.deepcopy(model, memo)  # takes what memo has instead of copying it


def _known_as(layer: QuantisedLinear, name: str, weight: Any) -> QuantisedLinear:
    layer.name, layer.source_dtype = name, weight.dtype
    return layer
