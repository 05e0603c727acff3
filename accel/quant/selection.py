"""Which layers of a model are quantised, with how many bits."""

from __future__ import annotations

import re

from torch import nn

from .attention import Attention
from .config import DuQuantConfig
from .statistics import Statistics


def linears(model: nn.Module, statistics: Statistics) -> dict[str, nn.Linear]:
    """{name: layer} of all linear layers; an attention's as if it were an `Attention`."""
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            if name not in statistics.attentions:
                found[f"{name}.out_proj"] = module.out_proj
                continue
            opened = Attention.from_stock(module, statistics.attentions[name], name)
            for child, linear in opened.named_children():
                assert isinstance(linear, nn.Linear)
                found[f"{name}.{child}"] = linear
        elif type(module) is nn.Linear:
            found[name] = module
    return found


def select(model: nn.Module, statistics: Statistics, config: DuQuantConfig) -> dict[str, int]:
    """{layer: weight bits} of the layers that will be quantised.

    Raises:
        ValueError: a pattern that matches nothing, no layer left, or a layer that the calibration
            never called.
    """
    found = linears(model, statistics)
    for setting in ("include", "exclude", "layer_bits"):
        for pattern in getattr(config, setting):
            if not any(re.search(pattern, name) for name in found):
                raise ValueError(
                    f"quant.{setting}: {pattern!r} matches none of {len(found)} layers"
                )
    chosen: dict[str, int] = {}
    for name, linear in found.items():
        if not any(re.search(p, name) for p in config.include):
            continue
        if any(re.search(p, name) for p in config.exclude):
            continue
        if min(linear.in_features, linear.out_features) < config.min_features:
            continue
        if name not in statistics.layers:
            raise ValueError(
                f"layer {name} was never called in the calibration or is not supported: exclude it"
            )
        bits = [b for p, b in config.layer_bits.items() if re.search(p, name)]
        chosen[name] = bits[-1] if bits else config.weight_bits
    if not chosen:
        raise ValueError(
            f"quant.include and exclude must leave a layer of at least {config.min_features} "
            f"features, got none of {len(found)}"
        )
    return chosen
