"""Ways to compute a quantised linear layer: a table, checked for exactness.

Kernels of kind "integer" give the layer's own numbers: their products of codes are equal bit by
bit, and codes differ by at most 1 where rounding of the transform does. "weight" kernels leave the
activations as they are: for layers whose inputs are not quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.linear import linear
from ..kernels.packed import Linear, Packed
from .config import OFF
from .linear import QuantisedLinear
from .native_linear import NativeFloat, NativeLinear, pack, unsupported
from .transform import rotate

Kernel = Callable[[Tensor], Tensor]
"""(T, K) float32 -> (T, N) float32."""


def weight_of(layer: QuantisedLinear) -> Tensor:
    """(N, K) float32: the weight that the codes stand for, with the transform undone.

    x @ weight_of(layer).T + bias is the layer without quantisation of activations.
    """
    w = layer.weight_codes().double() * layer.scale.double()[:, None]
    if layer.rows is not None:
        w = rotate(w.T.contiguous(), layer.rows.double()).T.contiguous()
    if layer.second is not None:
        w = rotate(w, layer.second.double().transpose(-1, -2))
    if layer.perm is not None:
        w = w[:, layer.perm.long().argsort()]
    if layer.first is not None:
        w = rotate(w.contiguous(), layer.first.double().transpose(-1, -2))
    w = w[:, : layer.in_features]
    if layer.inverse_smooth is not None:
        w = w * layer.inverse_smooth.double()
    return w.float().contiguous()


def bias_of(layer: QuantisedLinear) -> Tensor:
    zero = torch.zeros(layer.out_features, device=layer.codes.device)
    return zero if layer.bias is None else layer.bias


def _floating(precision: str) -> Callable[[QuantisedLinear, int], Kernel]:
    return lambda layer, rows: linear(weight_of(layer), bias_of(layer), rows, precision)


@dataclass(frozen=True)
class Entry:
    """A kernel.

    Attributes:
        kind: integer or weight, see above.
        make: (layer, rows) -> kernel for calls of `rows` tokens.
        refuses: why it cannot run a layer, or None.
    """

    kind: str
    make: Callable[[QuantisedLinear, int], Kernel]
    refuses: Callable[[QuantisedLinear], str | None] = lambda layer: None


KERNELS: dict[str, Entry] = {
    "native": Entry("integer", lambda layer, rows: NativeLinear(layer), unsupported),
    "torch": Entry("integer", lambda layer, rows: layer.plain),
    "fp32": Entry("weight", _floating("exact")),
    "bf16": Entry("weight", _floating("bf16")),
}
NATIVE: dict[str, Entry] = {  # what the fused engine's C program has
    "native": KERNELS["native"],
    "fp32": Entry("weight", lambda layer, rows: NativeFloat(weight_of(layer), bias_of(layer))),
}


def refusal(name: str, layer: QuantisedLinear, table: Mapping[str, Entry] = KERNELS) -> str | None:
    """Why a kernel cannot run a layer, or None."""
    if name not in table:
        return f"there are {', '.join(table)}"
    return table[name].refuses(layer)


def candidates(layer: QuantisedLinear, table: Mapping[str, Entry] = KERNELS) -> list[str]:
    """Kernels that can run what a layer is, the first of which does unless another is named.

    Those that multiply integers, and weights only where inputs have no codes.
    """
    free = layer.spec.activation_bits == OFF
    kinds = ("integer", "weight") if free else ("integer",)
    able = (n for n, entry in table.items() if entry.kind in kinds)
    return [name for name in able if refusal(name, layer, table) is None]


def packed(
    memory: Packed, layer: QuantisedLinear, kernel: str | None, name: str
) -> tuple[Linear, str]:
    """A quantised layer as native.c runs it, and by which kernel: native, or (as a weight) fp32.

    Args:
        memory: holds what the structure points to.
        layer: of a policy.
        kernel: in `NATIVE`; None: the first that runs the layer.
        name: of the layer, for the message.

    Raises:
        ValueError: the kernel cannot run the layer.
    """
    kernel = kernel or next(iter(candidates(layer, NATIVE)), "native")
    if reason := refusal(kernel, layer, NATIVE):
        raise ValueError(f"kernel {kernel!r} cannot run layer {name}: {reason}")
    if kernel == "native":
        return pack(memory, layer), kernel
    return memory.linear(weight_of(layer), bias_of(layer)), kernel


def build(
    name: str, layer: QuantisedLinear, rows: int, table: Mapping[str, Entry] = KERNELS
) -> Kernel:
    """A kernel of one layer for calls of `rows` tokens.

    Raises:
        ValueError: no such kernel, or one that cannot run the layer.
    """
    if reason := refusal(name, layer, table):
        raise ValueError(f"kernel {name!r} cannot run a layer ({layer.extra_repr()}): {reason}")
    return table[name].make(layer, rows)
