"""Which layers of a model are quantised, with how many bits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from .attention import Attention
from .config import EARLIER_LAYERS, LAYERS, QuantConfig
from .convolution import Convolution, Flattened, is_covered
from .report import MEMORY
from .statistics import Statistics

FUSED = "qkv_proj"
"""Queries, keys and values of tokens in one layer: no memory, though its name ends alike."""


def linears(model: nn.Module, attentions: Mapping[str, bool]) -> dict[str, nn.Linear]:
    """{name: layer} of all linear layers; those of `attentions` ({name: cross}) opened.

    A policy's convolutions are linear layers on patches.
    """
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            if name not in attentions:
                found[f"{name}.out_proj"] = module.out_proj
                continue
            opened = Attention.from_stock(module, attentions[name], name)
            for child, linear in opened.named_children():
                assert isinstance(linear, nn.Linear)
                found[f"{name}.{child}"] = linear
        elif type(module) is nn.Linear:
            found[name] = module
        elif is_covered(model, name, module):
            assert isinstance(module, Convolution)
            found[name] = Flattened(module)
    return found


def usual_attentions(model: nn.Module) -> dict[str, bool]:
    """{name: cross} by torch's names; how they are really called is what statistics know."""
    return {
        name: name.rpartition(".")[2] == "multihead_attn"
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }


def choose(found: Mapping[str, nn.Linear], config: QuantConfig) -> dict[str, int]:
    """{layer: weight bits} of the layers that will be quantised.

    Raises:
        ValueError: a pattern that does nothing, or no layer left.
    """
    least = config.min_features
    wide = [n for n, layer in found.items() if _width(layer) >= least]
    seeing = [n for n in wide if _is_default(config) and isinstance(found[n], Flattened)]
    if not seeing:
        _refuse_idle("include", config.include, wide, f"layers of at least {least} features")
    included = [name for name in wide if name in seeing or _is_included(name, config)]
    _refuse_idle("exclude", config.exclude, included, "layers that quant.include has")
    names = [name for name in included if not _matches(config.exclude, name)]
    if not names:
        raise ValueError(f"quant.exclude leaves none of {len(included)} layers")
    layer_bits = config.layer_bits or {}
    _refuse_idle("layer_bits", layer_bits, names, "layers that are quantised")
    chosen = {}
    for name in names:
        bits = [b for pattern, b in layer_bits.items() if re.search(pattern, name)]
        chosen[name] = bits[-1] if bits else config.weight_bits
    return chosen


def reasons(found: Mapping[str, nn.Linear], config: QuantConfig) -> dict[str, str]:
    """{layer: the setting that leaves it out} of those that `choose` does not choose."""
    chosen = choose(found, config)
    return {n: _reason(n, layer, config) for n, layer in found.items() if n not in chosen}


def _reason(name: str, layer: nn.Linear, config: QuantConfig) -> str:
    if _width(layer) < config.min_features:
        return "quant.min_features"
    if _matches(config.exclude, name):
        return "quant.exclude"
    memory = _is_default(config) and name.endswith("kv_proj") and not name.endswith(FUSED)
    return MEMORY if memory else "quant.include"


def settings_of(config: QuantConfig, model: nn.Module | None) -> dict[str, Any]:
    """A configuration's settings for the identity of a run.

    The default of `include` is told as the earlier one where both choose the same layers of a
    model, so that what was run before the default grew is still the same run.
    """
    settings = asdict(config)
    if model is None or config.include != (LAYERS,):
        return settings
    found = linears(model, usual_attentions(model))
    earlier = replace(config, include=(EARLIER_LAYERS,))
    try:
        same = choose(found, earlier) == choose(found, config)
    except ValueError:  # a pattern that does nothing, which its own check says
        same = False
    return asdict(earlier) if same else settings


def select(model: nn.Module, statistics: Statistics, config: QuantConfig) -> dict[str, int]:
    """`choose` from the layers of a model.

    Raises:
        ValueError: as `choose`, or a layer that the calibration never called.
    """
    chosen = choose(linears(model, statistics.attentions), config)
    idle = [name for name in chosen if name not in statistics.layers]
    if len(idle) == len(chosen):
        raise ValueError(
            f"none of the {len(chosen)} layers that quant.include has, {idle[0]} first, ran in the "
            "calibration: the model goes around them, or the batches of accel.collect do"
        )
    if idle:
        raise ValueError(
            f"layer {idle[0]} was never called in the calibration or is not supported: exclude it "
            f"(quant.exclude=['^{re.escape(idle[0])}$'])"
        )
    return chosen


def _width(layer: nn.Linear) -> int:
    return min(layer.in_features, layer.out_features)


def _is_default(config: QuantConfig) -> bool:
    return config.include in ((LAYERS,), (EARLIER_LAYERS,))


def _is_included(name: str, config: QuantConfig) -> bool:
    """By the patterns; the default leaves out keys and values of a memory, and no fused queries."""
    if _matches(config.include, name):
        return True
    own = name.removesuffix(FUSED)
    return own != name and _is_default(config) and _matches(config.include, f"{own}proj")


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _refuse_idle(setting: str, patterns: Iterable[str], names: list[str], what: str) -> None:
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"quant.{setting}: {pattern!r} matches none of {len(names)} {what}")
