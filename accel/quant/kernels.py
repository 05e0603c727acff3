"""Ways to compute a quantised linear layer: a table, checked for exactness, chosen by time.

Kernels of kind "integer" give the layer's own numbers: their products of codes are equal bit by
bit, and codes differ by at most 1 where rounding of the transform does. "weight" kernels leave the
activations as they are: not faster arithmetic but the fall-back where integers are slower than
floating point. A "tensor" kernel has one activation scale for all rows, which thereby influence
each other: only for a batch of one policy row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from ..kernels.linear import linear
from .codes import exact_product, token_codes
from .config import OFF
from .linear import QuantisedLinear
from .native_linear import NativeFloat, NativeLinear, plain_layer, unsupported
from .transform import rotate

Kernel = Callable[[Tensor], Tensor]
"""(T, K) float32 -> (T, N) float32."""


def weight_of(layer: QuantisedLinear) -> Tensor:
    """(N, K) float32: the weight that the codes stand for, with the transform undone.

    x @ weight_of(layer).T + bias is the layer without quantisation of activations.
    """
    w = layer.weight_codes().double() * layer.scale.double()[:, None]
    if layer.rows is not None:
        w = rotate(w.T.contiguous(), layer.rows.double()).T.contiguous()  # it is symmetric
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


class OneDnnLinear:
    """oneDNN's product of unsigned activations, codes plus 128, and signed weights.

    Attributes:
        per_token: scales per token; else one for all, as "dynamic quantisation" has it.
    """

    def __init__(self, layer: QuantisedLinear, rows: int, per_token: bool) -> None:
        self.layer, self.per_token = layer, per_token
        codes = layer.weight_codes()
        self.weight = torch.ops.onednn.qlinear_prepack(codes, [rows, codes.shape[1]])
        self.zeros = torch.zeros(len(codes), dtype=torch.int32)
        self.bias = bias_of(layer)

    def __call__(self, x: Tensor) -> Tensor:
        spec = self.layer.spec
        x = self.layer.transformed(x)
        if self.per_token:
            codes, scale = token_codes(x, spec.activation_bits, spec.activation_clip)
        else:
            flat, scale = token_codes(x.reshape(1, -1), spec.activation_bits, spec.activation_clip)
            codes = flat.view(x.shape)
        unsigned = (codes.to(torch.int16) + 128).to(torch.uint8)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(unsigned, 1.0, 128, self.weight, self.layer.scale, self.zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return out * scale + self.bias


@cache
def onednn_works() -> bool:
    """Whether its product is exact; without VNNI it saturates."""
    codes = torch.full((16, 64), 127)
    codes[1::2] = torch.randint(-127, 128, (8, 64), generator=torch.Generator().manual_seed(0))
    x = codes.flip(1).contiguous()
    x[:, 0] = 127
    try:
        out = OneDnnLinear(plain_layer(codes, 8), len(x), per_token=True)(x.float())
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return torch.equal(out.int(), exact_product(x.to(torch.int8), codes.to(torch.int8)))


def _onednn_refuses(layer: QuantisedLinear) -> str | None:
    if layer.spec.arithmetic != "integer" or layer.rows is not None or layer.codes.is_cuda:
        return "it is for integers without row_rot on a CPU"
    return None if onednn_works() else "its products are not exact here"


@dataclass(frozen=True)
class Entry:
    """A kernel.

    Attributes:
        kind: integer, tensor or weight, see above.
        make: (layer, rows) -> kernel for calls of `rows` tokens.
        refuses: why it cannot run a layer, or None.
    """

    kind: str
    make: Callable[[QuantisedLinear, int], Kernel]
    refuses: Callable[[QuantisedLinear], str | None] = lambda layer: None


KERNELS: dict[str, Entry] = {
    "native": Entry("integer", lambda layer, rows: NativeLinear(layer), unsupported),
    "torch": Entry("integer", lambda layer, rows: layer),
    "onednn": Entry("integer", partial(OneDnnLinear, per_token=True), _onednn_refuses),
    "onednn_tensor": Entry("tensor", partial(OneDnnLinear, per_token=False), _onednn_refuses),
    "fp32": Entry("weight", _floating("exact")),
    "bf16": Entry("weight", _floating("bf16")),
}
NATIVE: dict[str, Entry] = {  # what the fused engine's C program has
    "native": KERNELS["native"],
    "fp32": Entry("weight", lambda layer, rows: NativeFloat(weight_of(layer), bias_of(layer))),
}


def refusal(
    name: str, layer: QuantisedLinear, policy_batch: int = 1, table: Mapping[str, Entry] = KERNELS
) -> str | None:
    """Why a kernel cannot run a layer of a policy that is asked `policy_batch` rows, or None."""
    if name not in table:
        return f"there are {', '.join(table)}"
    if table[name].kind == "tensor" and policy_batch > 1:
        return f"its scale spans the batch, for policy_batch 1 only, got {policy_batch}"
    return table[name].refuses(layer)


def candidates(layer: QuantisedLinear, table: Mapping[str, Entry] = KERNELS) -> list[str]:
    """Kernels that can run what a layer is, the first of which does unless another is named.

    Those that multiply integers, and weights only where inputs have no codes.
    """
    free = layer.spec.activation_bits == OFF
    kinds = ("integer", "weight") if free else ("integer",)
    able = (n for n, entry in table.items() if entry.kind in kinds)
    return [name for name in able if refusal(name, layer, table=table) is None]


def build(
    name: str,
    layer: QuantisedLinear,
    rows: int,
    policy_batch: int = 1,
    table: Mapping[str, Entry] = KERNELS,
) -> Kernel:
    """A kernel of one layer for calls of `rows` tokens.

    Raises:
        ValueError: no such kernel, or one that cannot run the layer.
    """
    if reason := refusal(name, layer, policy_batch, table):
        raise ValueError(f"kernel {name!r} cannot run a layer ({layer.extra_repr()}): {reason}")
    return table[name].make(layer, rows)
