"""The operations of unet.h and dit.h, and rows of channels that they read and write."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .packed import Linear, Packed

CONVOLVE, NORM, COPY, MISH, PLUS, MODULATE, TURN, MIX, CURVE, GATE = range(10)
FLOAT = 4  # bytes


class Place(Structure):
    """Mirrors unet.h."""

    _fields_ = [("at", c_void_p), ("stride", c_int64), ("ld", c_int32)]


class Operation(Structure):
    """Mirrors unet.h."""

    _fields_ = [
        *((name, c_int32) for name in ("kind", "batch", "length", "channels", "groups")),
        *((name, Place) for name in ("start", "to", "add")),
        ("linear", Linear),
        ("eps", c_float),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("told", c_int64),
        ("scales", c_int32),
        ("scratch", c_void_p),
    ]


@dataclass(frozen=True)
class Rows:
    """Positions of a batch, each with its channels, between zeros that convolutions reach into.

    Attributes:
        values: (B, reach + length + reach, padded channels).
        length, channels: of what is not padding.
        reach: zeros at either end.
    """

    values: Tensor
    length: int
    channels: int
    reach: int

    @classmethod
    def zeros(cls, batch: int, length: int, channels: int, reach: int, panel: int) -> Rows:
        wide = channels + -channels % panel
        return cls(torch.zeros(batch, length + 2 * reach, wide), length, channels, reach)

    @property
    def ld(self) -> int:
        return self.values.shape[2]

    @property
    def view(self) -> Tensor:
        """(B, length, channels)."""
        return self.values[:, self.reach : self.reach + self.length, : self.channels]

    def place(self, first: int = 0, every: int = 1, channel: int = 0) -> Place:
        """Where positions `first`, `first` + `every`, ... begin, from `channel` on."""
        at = ((self.reach + first) * self.ld + channel) * FLOAT
        row = self.values.shape[1] * self.ld
        return Place(self.values.data_ptr() + at, row, every * self.ld)


def taps(weight: Tensor, ld: int) -> Tensor:
    """(out, in, taps) of a convolution -> (out, taps * ld), as its rows lie in memory."""
    filled = F.pad(weight.detach().transpose(1, 2), (0, ld - weight.shape[1]))
    return filled.reshape(len(weight), -1)


def padded(values: Tensor, panel: int) -> Tensor:
    """A vector with zeros up to a multiple of `panel`."""
    return F.pad(values.detach(), (0, -len(values) % panel))


class Section:
    """Operations that run in one call, for some rows of the batch.

    helped: whether another thread may take columns, see native.py.
    """

    def __init__(
        self,
        loaded: ctypes.CDLL,
        operations: Sequence[Operation],
        rows: slice,
        scratch: Tensor,
        helped: bool = False,
    ) -> None:
        self.call, self.rows, self.scratch, self.helped = loaded.operate, rows, scratch, helped
        self.given = tuple(operations)  # which hold what a copy of their bytes points to
        self.operations = (Operation * len(operations))(*(self._own(o) for o in operations))

    def _own(self, operation: Operation) -> Operation:
        """For its rows, where the given one is for all."""
        own = Operation.from_buffer_copy(operation)
        own.batch = self.rows.stop - self.rows.start
        own.scratch = self.scratch.data_ptr()
        for place in (own.start, own.to, own.add):
            if place.at:
                place.at += self.rows.start * place.stride * FLOAT
        return own

    def __call__(self, time: Tensor, seen: Tensor) -> None:
        """Run it under (n,) what the step says to all rows, and (B, n) what each has seen."""
        own = seen.data_ptr() + self.rows.start * seen.shape[1] * FLOAT
        self.call(
            self.operations,
            len(self.operations),
            c_void_p(time.data_ptr()),
            c_void_p(own),
            c_int64(seen.shape[1]),
            self.helped,
        )


def convolve(linear: Linear, start: Place, to: Place, length: int) -> Operation:
    """A linear layer of `length` rows that begin at `start`, one `ld` apart."""
    return Operation(CONVOLVE, length=length, start=start, to=to, linear=linear)


def norm(packed: Packed, module: Any, start: Rows, to: Rows, **more: Any) -> Operation:
    """Group norm, Mish, and what `more` says: told, scales, add."""
    weight, bias = (padded(v, packed.panel) for v in (module.weight, module.bias))
    return Operation(
        NORM,
        length=start.length,
        channels=start.channels,
        groups=module.num_groups,
        start=start.place(),
        to=to.place(),
        eps=module.eps,
        weight=packed.pointer(weight),
        bias=packed.pointer(bias),
        **{"told": -1, **more},
    )


def moved(kind: int, start: Rows, to: Place, **more: Any) -> Operation:
    """Something that is done position by position, from `start` to `to`."""
    sizes = {"length": start.length, "channels": start.channels}
    return Operation(kind, start=start.place(), to=to, **{**sizes, **more})
