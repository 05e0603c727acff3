"""The layers of a UNet as operations of unet.h, and the rows that they read and write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..kernels.operations import COPY, PLUS, Operation, Rows, convolve, moved, norm, taps
from ..kernels.packed import Linear, Packed
from ..quant.kernels import packed
from ..quant.linear import QuantisedLinear


class Layers:
    """Appends operations to lists, for one batch size.

    Args:
        packed: holds the weights.
        sizes: of the network.
        batch: rows.
        n_tokens: positions of level 0.
        kernels: {quantised convolution: kernel}, native or fp32; else the first that runs it.

    Attributes:
        buffers: which the operations point into.
        told: the linear layers of time and observations, one a block, in their order.
        told_at: numbers that they make together.
    """

    def __init__(
        self,
        packed: Packed,
        sizes: Any,
        batch: int,
        n_tokens: int,
        kernels: Mapping[QuantisedLinear, str] | None = None,
    ) -> None:
        self.packed, self.sizes, self.batch = packed, sizes, batch
        self.kernels = kernels or {}
        self.reach = max(sizes.kernel_size // 2, 1)
        self.lengths = [n_tokens >> level for level in range(len(sizes.down_dims))]
        self.buffers: list[Rows] = []
        self.told: list[Any] = []
        self.told_at = 0
        self.temporary: dict[tuple[str, int, int], Rows] = {}

    @property
    def widest(self) -> int:
        """Channels, with padding, of what is normed."""
        return max(rows.ld for rows in self.temporary.values())

    def buffer(self, level: int, channels: int) -> Rows:
        length, panel = self.lengths[level], self.packed.panel
        self.buffers.append(Rows.zeros(self.batch, length, channels, self.reach, panel))
        return self.buffers[-1]

    def shared(self, name: str, level: int, channels: int) -> Rows:
        """A buffer that is read right after it was written, and so is one for all blocks."""
        key = name, level, channels
        if key not in self.temporary:
            self.temporary[key] = self.buffer(level, channels)
        return self.temporary[key]

    def linear(self, conv: Any, x: Rows) -> Linear:
        """A convolution over these rows as a linear layer, of floats or of codes."""
        if not isinstance(conv, QuantisedLinear):
            return self.packed.linear(taps(conv.weight, x.ld), conv.bias)
        assert x.ld == x.channels, "quantised convolutions have rows without gaps"
        return packed(self.packed, conv, self.kernels.get(conv), conv.name)[0]

    def convolve(self, into: list[Operation], conv: Any, x: Rows, to: Rows) -> None:
        """Of stride 1, from as many positions as it has taps."""
        reach = conv.kernel_size[0] // 2
        into.append(convolve(self.linear(conv, x), x.place(-reach), to.place(), x.length))

    def block(
        self,
        into: list[Operation],
        block: Any,
        x: Rows,
        level: int,
        to: Rows | None = None,
        plus: Rows | None = None,
    ) -> Rows:
        """A residual block, and `plus` after it."""
        first, second = (b.block for b in block.blocks)
        channels = first[0].out_channels
        raw, hidden = (self.shared(name, level, channels) for name in ("raw", "hidden"))
        self.convolve(into, first[0], x, raw)
        scales = int(self.sizes.cond_predict_scale)
        told = {"told": self.told_at, "scales": scales}
        into.append(norm(self.packed, first[1], raw, hidden, **told))
        self.told.append(block.cond_encoder[1])
        self.told_at += raw.ld * (1 + scales)
        self.convolve(into, second[0], hidden, raw)
        shortcut = x
        if not isinstance(block.residual_conv, torch.nn.Identity):
            shortcut = self.shared("shortcut", level, channels)
            self.convolve(into, block.residual_conv, x, shortcut)
        out = self.buffer(level, channels) if to is None else to
        into.append(norm(self.packed, second[1], raw, out, add=shortcut.place()))
        if plus is not None:
            into.append(moved(PLUS, plus, out.place()))
        return out

    def pair(
        self, into: list[Operation], modules: Any, x: Rows, level: int, added: Rows | None = None
    ) -> Rows:
        between = self.block(into, modules[0], x, level, plus=added)
        return self.block(into, modules[1], between, level)

    def shorter(self, into: list[Operation], conv: Any, x: Rows, level: int) -> Rows:
        """A convolution of three taps at every second position."""
        out = self.buffer(level, x.channels)
        start = x.place(-1, every=2)
        into.append(convolve(self.linear(conv, x), start, out.place(), out.length))
        return out

    def longer(self, into: list[Operation], conv: Any, x: Rows, to: Rows) -> None:
        """A transposed convolution of four taps: two of them make even positions, two odd ones."""
        taps_of = conv.weight.transpose(0, 1)  # (out, in, 4)
        for first, chosen, start in ((0, [3, 1], x.place(-1)), (1, [2, 0], x.place())):
            weight, place = taps(taps_of[..., chosen], x.ld), to.place(first, every=2)
            into.append(convolve(self.packed.linear(weight, conv.bias), start, place, x.length))

    def join(self, into: list[Operation], deep: Rows, skip: Rows, level: int) -> Rows:
        """Channels of both, side by side."""
        joined = self.shared("joined", level, deep.channels + skip.channels)
        into.append(moved(COPY, deep, joined.place()))
        into.append(moved(COPY, skip, joined.place(channel=deep.channels)))
        return joined
