"""The linear layers of a policy's sites, plain or quantised, under the engines' names."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..protocol import Transparent
from ..quant.linear import QuantisedLinear

LINEARS = {"sa": ("in", "out"), "ca": ("q", "out"), "ff": ("up", "down")}


class Weights(NamedTuple):
    """A linear layer in floating point: (out, in), (out,)."""

    weight: Tensor
    bias: Tensor


Part = Weights | QuantisedLinear


def part(module: Any) -> Part:
    """A module that is called: nn.Linear, or its quantised form."""
    if isinstance(module, QuantisedLinear):
        return module
    bias = module.bias
    return Weights(module.weight, torch.zeros(len(module.weight)) if bias is None else bias)


def projection(attention: Any, name: str, rows: slice) -> Part:
    """An attention's projection: rows of nn.MultiheadAttention's, or a layer of an opened one."""
    if hasattr(attention, name):
        return part(getattr(attention, name))
    return Weights(attention.in_proj_weight[rows], attention.in_proj_bias[rows])


def memory_projection(attention: Any) -> Part:
    """Keys and values of a cross-attention, (2E, E)."""
    return projection(attention, "kv_proj", slice(attention.embed_dim, None))


def layers_of(policy: Transparent) -> list[Any]:
    stack = policy.model.encoder if policy.sizes.encoder_only else policy.model.decoder
    return list(stack.layers)


def norm_of(layer: Any, op: str) -> Any:
    names = {"sa": "norm1", "ca": "norm2", "ff": "norm3" if layer.cross else "norm2"}
    return getattr(layer, names[op])


def parts_of(policy: Transparent) -> dict[str, Part]:
    """{"<layer>.<op>.<name>": part} of every site's two linears, in the order of their use."""
    found: dict[str, Part] = {}
    for index, layer in enumerate(layers_of(policy)):
        for op in policy.sizes.branches:
            pair: tuple[Part, Part]
            if op == "ff":
                pair = part(layer.linear1), part(layer.linear2)
            elif op == "sa":
                attention = layer.self_attn
                pair = projection(attention, "in_proj", slice(None)), part(attention.out_proj)
            else:
                attention = layer.multihead_attn
                query = slice(attention.embed_dim)
                pair = projection(attention, "q_proj", query), part(attention.out_proj)
            found |= {f"{index}.{op}.{n}": p for n, p in zip(LINEARS[op], pair, strict=True)}
    return found


def quantised_of(policy: Transparent) -> dict[str, QuantisedLinear]:
    """Those that are quantised."""
    return {n: p for n, p in parts_of(policy).items() if isinstance(p, QuantisedLinear)}
