"""The branches of a transformer as functions of the stream, in torch, for one batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.linear import PlainLinear, Wrapped, linear
from ..protocol import Transparent
from ..quant.kernels import build, candidates
from ..quant.linear import QuantisedLinear
from .inputs import Memory
from .parts import layers_of, norm_of, parts_of

Branch = Callable[[Tensor], Tensor]


class TorchSites:
    """Sites in the network's order, (batch * tokens, width) -> the stream with what each adds.

    Attributes:
        branches: one function a site.
        kernels: {layer: kernel} of their linears.
    """

    def __init__(
        self,
        policy: Transparent,
        batch: int,
        tokens: int,
        memory: Memory | None,
        precision: str,
        chosen: Mapping[str, str],
    ) -> None:
        self.policy, self.batch, self.tokens, self.memory = policy, batch, tokens, memory
        self.precision, self.chosen = precision, chosen
        self.parts, self.kernels = parts_of(policy), dict[str, str]()
        makers = {
            "sa": self._self_attention,
            "ca": self._cross_attention,
            "ff": self._feed_forward,
        }
        self.branches = [
            makers[op](index, layer)
            for index, layer in enumerate(layers_of(policy))
            for op in policy.sizes.branches
        ]

    def _linear(self, name: str) -> PlainLinear:
        part, rows = self.parts[name], self.batch * self.tokens
        if isinstance(part, QuantisedLinear):
            self.kernels[name] = self.chosen.get(name) or candidates(part)[0]
            return Wrapped(build(self.kernels[name], part, rows))
        kernel = linear(*part, rows, self.precision)
        self.kernels[name] = kernel.name
        return kernel

    def _self_attention(self, index: int, layer: Any) -> Branch:
        attention, norm = layer.self_attn, normalised(norm_of(layer, "sa"))
        project, out = self._linear(f"{index}.sa.in"), self._linear(f"{index}.sa.out")
        shape = (self.batch, self.tokens, 3, attention.num_heads, -1)
        causal = self.policy.model.mask is not None

        def branch(x: Tensor) -> Tensor:
            q, k, v = project(norm(x)).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
            h = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            return out.add(h.transpose(1, 2).reshape(x.shape), x)

        return branch

    def _cross_attention(self, index: int, layer: Any) -> Branch:
        attention, norm = layer.multihead_attn, normalised(norm_of(layer, "ca"))
        assert self.memory is not None
        project, out = self._linear(f"{index}.ca.q"), self._linear(f"{index}.ca.out")
        shape = (self.batch, self.tokens, attention.num_heads, -1)
        mask = self.policy.model.memory_mask
        mask = None if mask is None else mask[: self.tokens].contiguous()
        keys, values = self.memory.of_layer(index)

        def branch(x: Tensor) -> Tensor:
            q = project(norm(x)).view(shape).transpose(1, 2)
            h = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            return out.add(h.transpose(1, 2).reshape(x.shape), x)

        return branch

    def _feed_forward(self, index: int, layer: Any) -> Branch:
        norm = normalised(norm_of(layer, "ff"))
        up, down = self._linear(f"{index}.ff.up"), self._linear(f"{index}.ff.down")
        return lambda x: down.add(up.gelu(norm(x)), x)


def normalised(norm: Any) -> Branch:
    """A layer norm as a function."""
    return lambda x: torch.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
