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
KEPT = (torch.float16, torch.float64, torch.uint8, torch.int8)  # types that are stored as they are


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
        ("half", c_int32),
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
    half as much; `round_weights` stores all of them so, but in layers where one would overflow.
    """

    def __init__(self, loaded: ctypes.CDLL, round_weights: bool = False) -> None:
        self.loaded = loaded
        self.panel, self.half_works = loaded.panel_width(), bool(loaded.half_works())
        self.round_weights = round_weights
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
        values, half = weight.detach(), weight.detach().half()
        exact = bool((half.float() == values).all())
        rounds = self.round_weights and bool(half.isfinite().all())
        chosen = half if self.half_works and (exact or rounds) else values
        panels = F.pad(chosen, (0, 0, 0, missing)).view(-1, self.panel, inputs).transpose(1, 2)
        padded_bias = F.pad(bias.detach(), (0, missing))
        return Linear(
            self.pointer(panels),
            self.pointer(padded_bias),
            inputs,
            outputs,
            chosen.dtype == torch.float16,
        )

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
