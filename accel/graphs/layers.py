"""Quantised layers as operators of ONNX: codes stay codes in the file.

A layer of codes for weights and inputs is a product of integers, MatMulInteger, between what rounds
a token's inputs and what scales the sums, the formula of `QuantisedLinear`. Both factors are stored
as unsigned bytes around 128: processors without VNNI add pairs of products of unsigned by signed
bytes in 16 bits, which overflows without a word, and unsigned by unsigned in 32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..quant.codes import token_codes
from ..quant.config import OFF
from ..quant.linear import QuantisedLinear, rounded
from ..quant.transform import rotate

ZERO = 128  # the byte that stands for 0


class _MatMulInteger(torch.autograd.Function):
    """(T, K) uint8 by (K, N) uint8, both around 128 -> (T, N) int32."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, zero: Tensor) -> Tensor:
        return ((a.double() - ZERO) @ (b.double() - ZERO)).to(torch.int32)

    @staticmethod
    def symbolic(g: Any, a: Any, b: Any, zero: Any) -> Any:
        return g.op("MatMulInteger", a, b, zero, zero)


class _Dequantise(torch.autograd.Function):
    """(N, K) int8 and scales (N,) -> (N, K) float32."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, scale: Tensor) -> Tensor:
        return codes * scale[:, None]

    @staticmethod
    def symbolic(g: Any, codes: Any, scale: Any) -> Any:
        return g.op("DequantizeLinear", codes, scale, axis_i=0)


class Operator(nn.Module):
    """A quantised layer in a graph; its own forward gives the shapes, `product` the numbers.

    The layer is no part of it, as its state has a dictionary, which tracing cannot read: its
    tensors are.
    """

    def __init__(self, layer: QuantisedLinear) -> None:
        super().__init__()
        self.layer = (layer,)
        layer.executor = self.product
        for name, value in layer.named_buffers():
            self.register_buffer(name, value)
        for name, value in self.stored(layer).items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """As of the layer."""
        out: Tensor = self.layer[0](x)
        return out

    def product(self, layer: QuantisedLinear, x: Tensor) -> Tensor:
        """(T, K) -> (T, N), the layer's `plain` in operators."""
        y = self.of_codes(layer, layer.transformed(x))
        if layer.rows is not None:
            y = rotate(y, layer.rows)
        return y if layer.bias is None else y + layer.bias

    @staticmethod
    def stored(layer: QuantisedLinear) -> dict[str, Tensor]:
        """What the file has of the weight."""
        raise NotImplementedError

    def of_codes(self, layer: QuantisedLinear, x: Tensor) -> Tensor:
        """(T, width) -> (T, N)."""
        raise NotImplementedError


class IntegerOperator(Operator):
    """Codes by codes, summed exactly, scaled once."""

    shifted: Tensor
    zero: Tensor

    @staticmethod
    def stored(layer: QuantisedLinear) -> dict[str, Tensor]:
        shifted = (layer.weight_codes().to(torch.int16) + ZERO).to(torch.uint8).T.contiguous()
        return {"shifted": shifted, "zero": torch.tensor(ZERO, dtype=torch.uint8)}

    def of_codes(self, layer: QuantisedLinear, x: Tensor) -> Tensor:
        spec = layer.spec
        codes, scale = token_codes(x, spec.activation_bits, spec.activation_clip)
        bytes_ = (codes.to(torch.int32) + ZERO).to(torch.uint8)
        sums: Tensor = _MatMulInteger.apply(bytes_, self.shifted, self.zero)  # type: ignore[no-untyped-call]
        return sums.to(torch.float32) * scale * layer.scale


class FloatOperator(Operator):
    """Floating point, on weights that are codes in the file."""

    unpacked: Tensor

    @staticmethod
    def stored(layer: QuantisedLinear) -> dict[str, Tensor]:
        return {"unpacked": layer.weight_codes().contiguous()}

    def of_codes(self, layer: QuantisedLinear, x: Tensor) -> Tensor:
        if layer.spec.weight_bits < OFF:
            weight: Tensor = _Dequantise.apply(self.unpacked, layer.scale)  # type: ignore[no-untyped-call]
        else:
            weight = self.unpacked * layer.scale[:, None]
        return rounded(layer, x) @ weight.T


OPERATORS: dict[str, type[Operator]] = {"integer": IntegerOperator, "simulated": FloatOperator}


def as_operators(model: nn.Module) -> None:
    """Put these in the places of a model's quantised layers; the model is a copy of its own."""
    made: dict[nn.Module, Operator] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if isinstance(layer, QuantisedLinear):
            if layer not in made:
                made[layer] = OPERATORS[layer.spec.arithmetic](layer)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, made[layer])
