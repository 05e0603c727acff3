"""C structures of native.c, and the tensors that they point to."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, Structure, c_double, c_float, c_int32, c_void_p, pointer
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

STORE, GELU, ADD = range(3)
SINGLE, HALF, BFLOAT, TILES = range(4)  # how weights are stored
SIDE = 16  # pairs in a row of a tile, see tiles.h
KEPT = (
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.uint8,
    torch.int8,
)  # types that are stored as they are
PANELS = (3, 4)  # dimensions of a layer's weights, as no other tensor here has them


class Quant(Structure):
    """Mirrors quantised.h."""

    _fields_ = [
        *((n, c_int32) for n in ("width", "block", "first_kind", "second_kind", "bits", "top")),
        *((n, c_int32) for n in ("turn", "turn_kind")),
        ("reach", c_float),
        *((n, c_void_p) for n in ("smooth", "first", "second", "perm", "scale", "back")),
    ]


class Linear(Structure):
    """Mirrors native.c."""

    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("stored", c_int32),
        ("quant", POINTER(Quant)),
    ]


class Site(Structure):
    """Mirrors native.c."""

    _fields_ = [
        ("op", c_int32),
        ("layer", c_int32),
        ("eps", c_float),
        ("norm_weight", c_void_p),
        ("norm_bias", c_void_p),
        ("first", Linear),
        ("second", Linear),
    ]


class Rule(Structure):
    """Mirrors native.c."""

    _fields_ = [
        ("norm_probe", c_int32),
        ("accumulates", c_int32),
        ("limit", c_double),
        ("most", c_double),
        ("rescale", c_void_p),
        ("time_change", c_void_p),
        ("always", c_void_p),
    ]


SIZES = (
    *("dim", "heads", "hidden", "live", "lead", "width", "memory", "layers", "batch", "steps"),
    *("n_sites", "observed", "observed_from"),
)


class Net(Structure):
    """Mirrors native.c."""

    _fields_ = [
        *((name, c_int32) for name in SIZES),
        ("sees", c_void_p),
        ("sees_memory", c_void_p),
        ("sites", POINTER(Site)),
        ("embed", Linear),
        ("head", Linear),
        ("eps", c_float),
        *(
            (name, c_void_p)
            for name in (
                "norm_weight",
                "norm_bias",
                "position",
                "time_tokens",
                "time_keys",
                "program",
                "coefficients",
                "biases",
                "sampler",
            )
        ),
        ("clip", c_float),
        ("multistep", c_int32),
        ("rule", POINTER(Rule)),
    ]


class Packed:
    """Makes C structures, and holds the memory that they point to.

    Weights that half precision represents exactly are stored in it, which loses nothing and reads
    half as much. `precision` as an engine has it: half stores all of them so, bf16 all as bfloat16,
    in tiles where the CPU multiplies those, to which their layer's inputs are then rounded too;
    layers where a weight would overflow stay.
    """

    def __init__(self, loaded: ctypes.CDLL, precision: str = "exact") -> None:
        self.loaded = loaded
        self.panel, self.half_works = loaded.panel_width(), bool(loaded.half_works())
        self.tiles_work = bool(loaded.tiles_work())
        self.precision = precision
        self.held: list[Tensor] = []

    def pointer(self, tensor: Tensor) -> int:
        """Address of the values, contiguous, as float32 (int32 for integers) or as they are."""
        kind = torch.float32 if tensor.is_floating_point() else torch.int32
        kind = tensor.dtype if tensor.dtype in KEPT else kind
        self.held.append(tensor.detach().to(kind).contiguous())
        return int(self.held[-1].data_ptr())

    def linear(self, weight: Tensor, bias: Tensor) -> Linear:
        """(out, in) -> panels of `panel` outputs, each (in, panel), padded by zeros."""
        outputs, inputs = weight.shape
        missing = -outputs % self.panel
        stored, chosen = self._stored(weight.detach())
        values = F.pad(chosen, (0, 0, 0, missing))
        if stored in (BFLOAT, TILES):  # (in / 2, panel) pairs, of whole tiles
            values = F.pad(values, (0, -inputs % (2 if stored == BFLOAT else 2 * SIDE)))
            values = values.view(-1, self.panel, values.shape[1] // 2, 2)
        else:
            values = values.view(-1, self.panel, inputs)
        padded_bias = F.pad(bias.detach(), (0, missing))
        return Linear(
            self.pointer(values.transpose(1, 2)),
            self.pointer(padded_bias),
            inputs,
            outputs,
            stored,
        )

    def _stored(self, values: Tensor) -> tuple[int, Tensor]:
        """How weights are stored, and they so."""
        if self.precision == "bf16":
            rounded = values.bfloat16()
            stored = TILES if self.tiles_work else BFLOAT
            return (stored, rounded) if bool(rounded.isfinite().all()) else (SINGLE, values)
        half = values.half()
        exact = bool((half.float() == values).all())
        rounds = self.precision == "half" and bool(half.isfinite().all())
        return (HALF, half) if self.half_works and (exact or rounds) else (SINGLE, values)

    def rule(self, values: Mapping[str, Any]) -> Any:
        """A pointer to a `Rule` of numbers and tensors."""
        fields = {
            name: self.pointer(value) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        return pointer(Rule(**fields))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.held)

    @property
    def weight_bytes(self) -> int:
        """Of the panels of all linear layers."""
        return sum(tensor.nbytes for tensor in self.held if tensor.ndim in PANELS)
