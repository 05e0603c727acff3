"""The linear layers of a policy's sites, plain or quantised, under the engines' names."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from torch import Tensor

from ..families import family_of
from ..protocol import Accelerable, Transparent
from ..quant.linear import QuantisedLinear

MODULES = {  # of one layer of the main stack
    "sa.in": "self_attn.in_proj",
    "sa.out": "self_attn.out_proj",
    "ca.q": "multihead_attn.q_proj",
    "ca.kv": "multihead_attn.kv_proj",
    "ca.out": "multihead_attn.out_proj",
    "ff.up": "linear1",
    "ff.down": "linear2",
}
LINEARS = {"sa": ("in", "out"), "ca": ("q", "out"), "ff": ("up", "down")}  # of a site
NAMES = {module: name for name, module in MODULES.items()}


def engine_name(layer: str, encoder_only: bool) -> str | None:
    """model.decoder.layers.0.self_attn.in_proj -> 0.sa.in; None outside of the main stack."""
    stack = "encoder" if encoder_only else "decoder"
    match = re.fullmatch(rf"model\.{stack}\.layers\.(\d+)\.(.+)", layer)
    return f"{match[1]}.{NAMES[match[2]]}" if match and match[2] in NAMES else None


def name_of(policy: Any, layer: str) -> str | None:
    """What the engines call a quantised layer of a policy: as in `MODULES`, else as its module."""
    return engine_name(layer, policy.sizes.encoder_only) if _has_parts(policy) else layer


class Weights(NamedTuple):
    """A linear layer in floating point: (out, in), (out,)."""

    weight: Tensor
    bias: Tensor


Part = Weights | QuantisedLinear


def part_of(layer: Any, name: str) -> Part:
    """A linear of a layer, by its name in `MODULES`: a module, or rows of a stock in_proj."""
    holder_name, _, leaf = MODULES[name].rpartition(".")
    holder = layer.get_submodule(holder_name)
    module = getattr(holder, leaf, None)
    if module is None:
        width = holder.embed_dim
        rows = slice(*{"in_proj": (0, None), "q_proj": (0, width), "kv_proj": (width, None)}[leaf])
        return Weights(holder.in_proj_weight[rows], holder.in_proj_bias[rows])
    if isinstance(module, QuantisedLinear):
        return module
    weight, bias = module.weight, module.bias
    return Weights(weight, weight.new_zeros(len(weight)) if bias is None else bias)


def layers_of(policy: Transparent) -> list[Any]:
    stack = policy.model.encoder if policy.sizes.encoder_only else policy.model.decoder
    return list(stack.layers)


def norm_of(layer: Any, op: str) -> Any:
    names = {"sa": "norm1", "ca": "norm2", "ff": "norm3" if layer.cross else "norm2"}
    return getattr(layer, names[op])


def parts_of(policy: Transparent) -> dict[str, Part]:
    """{"<layer>.<op>.<name>": part} of every branch, in the order of their use."""
    return {
        f"{index}.{name}": part_of(layer, name)
        for index, layer in enumerate(layers_of(policy))
        for name in MODULES
        if name.partition(".")[0] in policy.sizes.branches
    }


def quantised_of(policy: Transparent) -> dict[str, QuantisedLinear]:
    """Those that are quantised, by the engines' names of them, see `name_of`."""
    if not family_of(policy).quantizable:
        return {}
    modules: Any = policy.model.named_modules(prefix="model")
    named = parts_of(policy) if _has_parts(policy) else dict(modules)
    return {n: p for n, p in named.items() if isinstance(p, QuantisedLinear)}


def _has_parts(policy: Accelerable) -> bool:
    """Whether the fused engine has a program of the policy's layers, by `MODULES`."""
    family = family_of(policy)
    return family.compiled == "query" and "fused" in family.engines
