"""A quantised linear layer for quantised.h: how it is packed, and whether the C code is right."""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.facts import known
from ..kernels.native import library
from ..kernels.packed import STORE, Linear, Packed, Quant
from .codes import pack4, top
from .config import OFF, QuantConfig
from .linear import QuantisedLinear
from .spec import LinearSpec, arithmetic

log = logging.getLogger(__name__)

WIDEST = 512  # block of a rotation that quantised.h has memory for
KINDS = {"none": 0, "hadamard": 1, "stored": 2}


def unsupported(layer: QuantisedLinear) -> str | None:
    """Why the C code does not run this layer's integers, or None."""
    if layer.codes.device.type != "cpu":
        return "it is not on a CPU"
    spec = layer.spec
    whole = spec.out_features % spec.rows == 0
    if not (whole and _is_block(spec.block) and _is_block(spec.rows)):
        return f"its blocks, {spec.block} and {spec.rows}, must be powers of two up to {WIDEST}"
    return _refused(layer.spec.arithmetic)


def _is_block(n: int) -> bool:
    return 1 <= n <= WIDEST and n & (n - 1) == 0


def refused_settings(config: QuantConfig) -> str | None:
    """Why native.c does not run what these settings make of a policy, or None.

    Layers whose inputs have no codes run there as weights.
    """
    if config.activation_bits == OFF:
        return None
    widest = max(config.weight_bits, *(config.layer_bits or {}).values(), config.activation_bits)
    return _refused(arithmetic(widest, config.activation))


def _refused(how: str) -> str | None:
    reasons = {
        f"{how} arithmetic": how != "integer",
        "no compiled code for integers": not known(works),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def pack(packed: Packed, layer: QuantisedLinear) -> Linear:
    """The layer's C structure; `packed` holds its memory.

    Weights are laid out for the instructions that this machine has: 8-bit codes as bytes, up to 4
    bits in nibbles, `group` neighbouring channels of a column together.
    """
    spec, block = layer.spec, layer.spec.block
    smooth = torch.ones(spec.in_features)
    if layer.inverse_smooth is not None:
        smooth = layer.inverse_smooth.clone()
    for kind in (spec.first, spec.second):
        if kind == "hadamard":  # the C code adds and subtracts, its norm is here
            smooth = smooth / block**0.5
    stored = {
        name: packed.pointer(getattr(layer, name)) if getattr(spec, name) == "stored" else None
        for name in ("first", "second")
    }
    missing = -spec.out_features % packed.panel
    scale, turned = layer.scale, "none" if layer.rows is None else spec.rows_kind
    if turned == "hadamard":
        scale = scale / spec.rows**0.5
    bias = torch.zeros(spec.out_features) if layer.bias is None else layer.bias
    quant = Quant(
        width=layer.width,
        block=block,
        first_kind=KINDS[spec.first],
        second_kind=KINDS[spec.second],
        bits=4 if spec.weight_bits <= 4 else 8,
        top=top(spec.activation_bits),
        turn=spec.rows,
        turn_kind=KINDS[turned],
        reach=spec.activation_clip / top(spec.activation_bits),
        smooth=packed.pointer(smooth),
        perm=None if layer.perm is None else packed.pointer(layer.perm),
        scale=packed.pointer(F.pad(scale, (0, missing))),
        back=packed.pointer(layer.rows) if turned == "stored" and layer.rows is not None else None,
        **stored,
    )
    weight = packed.pointer(panels(packed, quant, layer.weight_codes()))
    padded = packed.pointer(F.pad(bias, (0, missing)))
    return Linear(weight, padded, spec.in_features, spec.out_features, False, ctypes.pointer(quant))


def panels(packed: Packed, quant: Quant, codes: Tensor) -> Tensor:
    """(N, width) int8 -> bytes: panels of columns, each (depth / group, columns, group)."""
    pointer, loaded = ctypes.byref(quant), packed.loaded
    depth, group = loaded.packing_depth(pointer), loaded.packing_group(pointer)
    codes = F.pad(codes, (0, depth - codes.shape[1], 0, -len(codes) % packed.panel))
    grouped = codes.view(-1, packed.panel, depth // group, group).transpose(1, 2)
    offset = loaded.packing_offset(pointer)
    if offset:
        grouped = (grouped.to(torch.int16) + offset).to(torch.uint8)
    if quant.bits == 4:
        half = packed.panel // 2
        grouped = grouped[:, :, :half] | (grouped[:, :, half:] << 4)
    return grouped.contiguous()


class NativeLinear:
    """The layer alone, through C, on one thread."""

    def __init__(self, layer: QuantisedLinear) -> None:
        self.packed = Packed(_loaded())
        self.linear = pack(self.packed, layer)

    def __call__(self, x: Tensor) -> Tensor:
        """(T, K) float32 -> (T, N)."""
        return run(self.packed, self.linear, x)


class NativeFloat(NativeLinear):
    """A layer that is not quantised, through the same C code."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.packed = Packed(_loaded())
        self.linear = self.packed.linear(weight, bias)


def _loaded() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None
    return loaded


def run(packed: Packed, linear: Linear, x: Tensor) -> Tensor:
    x = x.contiguous()
    loaded, pointer, rows = packed.loaded, ctypes.byref(linear), len(x)
    columns = linear.outputs + -linear.outputs % packed.panel
    out = torch.empty(rows, columns)
    scratch = torch.empty(loaded.linear_floats(pointer, ctypes.c_int64(rows)))
    read, write, spare = (ctypes.c_void_p(t.data_ptr()) for t in (x, out, scratch))
    loaded.linear(pointer, rows, read, linear.inputs, write, columns, STORE, spare)
    return out[:, : linear.outputs]


@lru_cache(maxsize=1)
def works() -> bool:
    """Whether the C code runs integers here, and gives exactly what int64 gives.

    Its inputs are their own codes: every row has a largest magnitude of 127.
    """
    loaded = library()
    if loaded is None or not loaded.integers_work():
        return False
    generator = torch.Generator().manual_seed(0)
    for bits in (4, 8):
        x = torch.randint(-127, 128, (13, 80), generator=generator)
        codes = torch.randint(-top(bits), top(bits) + 1, (40, 80), generator=generator)
        x[:, 0], x[1], x[2], codes[0], codes[1] = 127, 127, -127, top(bits), -top(bits)
        made = NativeLinear(plain_layer(codes, bits))(x.float())
        if not torch.equal(made, (x @ codes.T).float()):
            log.warning("compiled products of integers are wrong here: torch is used")
            return False
    return True


def plain_layer(codes: Tensor, bits: int, activation_bits: int = 8) -> QuantisedLinear:
    """A layer without transform or bias, its codes (N, K) given, K a multiple of 2, scales 1."""
    spec = LinearSpec(
        in_features=codes.shape[1],
        out_features=len(codes),
        bias=False,
        method="rtn",
        block=2,
        smooth=False,
        first="none",
        permute=False,
        second="none",
        rows=1,
        weight_bits=bits,
        activation_bits=activation_bits,
        activation="symmetric",
        activation_clip=1.0,
        source="",
    )
    layer = QuantisedLinear(spec)
    layer.codes = pack4(codes.to(torch.int8)) if bits <= 4 else codes.to(torch.int8)
    return layer
