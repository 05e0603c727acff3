"""A UNet's denoising call as operations of unet.h, level by level, for one batch size.

What time and observations say to the blocks is linear in each of the two once they are activated,
so it is a table over the sampler's steps, made once, and a row of the batch, made once a query.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..kernels.native import library, threads
from ..kernels.operations import (
    COPY,
    MISH,
    PLUS,
    Operation,
    Place,
    Rows,
    Section,
    convolve,
    moved,
    norm,
    padded,
    taps,
)
from ..kernels.packed import Packed
from .native_program import one_thread

Branch = Callable[[int, Callable[[], Tensor]], Tensor]


class UnetProgram:
    """Called as the network is: (sample, timestep, cond, branch) -> the network's output.

    Args:
        policy: with a UNet; its `model` has the reference implementation's names.
        batch: rows of every call.
        half: weights are rounded to half precision; else those that lose nothing are stored in it.
    """

    def __init__(self, policy: Any, batch: int, half: bool = False) -> None:
        loaded = library()
        assert loaded is not None
        self.model, self.sizes, self.batch = policy.model, policy.sizes, batch
        self.packed = Packed(loaded, half)
        self.reach = max(self.sizes.kernel_size // 2, 1)
        self.lengths = [policy.n_tokens >> i for i in range(len(self.sizes.down_dims))]
        workers = min(torch.get_num_threads(), batch)
        edges = [round(i * batch / workers) for i in range(workers + 1)]
        self.rows = [slice(a, b) for a, b in itertools.pairwise(edges)]
        self.buffers: list[Rows] = []  # which the operations point into
        self.told: list[Any] = []  # linear layers of time and observations, one a block
        self.told_at = 0
        self.temporary: dict[tuple[str, int, int], Rows] = {}
        self._build()
        steps = torch.as_tensor(policy.table.timesteps)
        self.step_of = {int(t): i for i, t in enumerate(steps)}
        with one_thread():
            self._tell(steps)

    def observe(self, cond: Tensor) -> None:
        """What a query has seen: (B, n_obs_steps, cond_dim) normalised."""
        if self.sizes.obs_as == "global":
            self.observed.view.copy_(cond.flatten(1)[:, None])
            self._run(self.seeing)
        elif self.sizes.obs_as == "local":
            self.local.view[:, : cond.shape[1]] = cond

    def __call__(
        self, sample: Tensor, timestep: Tensor, cond: Tensor | None, branch: Branch | None = None
    ) -> Tensor:
        """One denoising call; arguments as the network's, of the query that was observed."""
        self.time = self.times[self.step_of[int(timestep[0])]]
        self.entered.view.copy_(sample)
        self._run(self.first)
        self._below(0, branch)
        self._run(self.last)
        return self.out.view.clone()

    def _below(self, level: int, branch: Branch | None) -> None:
        """A level's features to what comes back up to it, in `self.back[level]`."""
        if level == len(self.lengths) - 1:
            self._run(self.middle)
            return
        self._run(self.down[level])
        back = self.back[level + 1].view

        def compute() -> Tensor:
            self._below(level + 1, branch)
            return back.clone()

        if branch is None:
            self._below(level + 1, None)
        else:
            back.copy_(branch(level, compute))
        self._run(self.up[level])

    def _run(self, sections: list[Section]) -> None:
        if len(sections) == 1:
            sections[0](self.time, self.seen)
        else:
            list(threads(len(sections)).map(lambda run: run(self.time, self.seen), sections))

    def _build(self) -> None:
        """Buffers and sections, in the order in which the network runs them."""
        model, dims, sizes = self.model, self.sizes.down_dims, self.sizes
        self.entered = self._buffer(0, sizes.input_dim)
        first: list[Operation] = []
        added = None
        if sizes.obs_as == "local":
            self.local = self._buffer(0, sizes.cond_dim)
            added = self._block(first, model.local_cond_encoder[0], self.local, 0)
        features = self._pair(first, model.down_modules[0], self.entered, 0, added)
        downs: list[list[Operation]] = []
        ups: list[list[Operation]] = []
        skips = [features]
        self.back = [self._buffer(level, dim) for level, dim in enumerate(dims)]
        for level in range(1, len(dims)):
            down: list[Operation] = []
            shorter = self._shorter(down, model.down_modules[level - 1][2].conv, features, level)
            features = self._pair(down, model.down_modules[level], shorter, level)
            downs.append(down)
            skips.append(features)
        middle: list[Operation] = []
        deep = self._block(middle, model.mid_modules[0], features, len(dims) - 1)
        last = len(dims) - 1
        self._block(middle, model.mid_modules[1], deep, last, to=self.back[last])
        for level in range(last - 1, -1, -1):
            up: list[Operation] = []
            joined = self._join(up, self.back[level + 1], skips[level + 1], level + 1)
            out = self._pair(up, model.up_modules[-1 - level], joined, level + 1)
            self._longer(up, model.up_modules[-1 - level][2].conv, out, self.back[level])
            ups.insert(0, up)
        final: list[Operation] = []
        self._final(final)
        self._scratch()
        self.first, self.middle, self.last = (self._cut(s) for s in (first, middle, final))
        self.down, self.up = [self._cut(s) for s in downs], [self._cut(s) for s in ups]

    def _scratch(self) -> None:
        wide = max(rows.ld for rows in self.temporary.values())
        self.scratch = [torch.zeros(3 * wide) for _ in self.rows]

    def _cut(self, operations: list[Operation]) -> list[Section]:
        loaded = self.packed.loaded
        return [
            Section(loaded, operations, rows, scratch)
            for rows, scratch in zip(self.rows, self.scratch, strict=True)
        ]

    def _buffer(self, level: int, channels: int) -> Rows:
        length, panel = self.lengths[level], self.packed.panel
        self.buffers.append(Rows.zeros(self.batch, length, channels, self.reach, panel))
        return self.buffers[-1]

    def _shared(self, name: str, level: int, channels: int) -> Rows:
        """A buffer that is read right after it was written, and so is one for all blocks."""
        key = name, level, channels
        if key not in self.temporary:
            self.temporary[key] = self._buffer(level, channels)
        return self.temporary[key]

    def _convolve(self, into: list[Operation], conv: Any, x: Rows, to: Rows) -> None:
        """Of stride 1, from as many positions as it has taps."""
        reach = conv.kernel_size[0] // 2
        weight = taps(conv.weight, x.ld)
        into.append(convolve(self.packed, weight, conv.bias, x.place(-reach), to.place(), x.length))

    def _block(
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
        raw, hidden = (self._shared(name, level, channels) for name in ("raw", "hidden"))
        self._convolve(into, first[0], x, raw)
        scales = int(self.sizes.cond_predict_scale)
        told = {"told": self.told_at, "scales": scales}
        into.append(norm(self.packed, first[1], raw, hidden, **told))
        self.told.append(block.cond_encoder[1])
        self.told_at += raw.ld * (1 + scales)
        self._convolve(into, second[0], hidden, raw)
        shortcut = x
        if isinstance(block.residual_conv, torch.nn.Conv1d):
            shortcut = self._shared("shortcut", level, channels)
            self._convolve(into, block.residual_conv, x, shortcut)
        out = self._buffer(level, channels) if to is None else to
        into.append(norm(self.packed, second[1], raw, out, add=shortcut.place()))
        if plus is not None:
            into.append(moved(PLUS, plus, out.place()))
        return out

    def _pair(
        self, into: list[Operation], modules: Any, x: Rows, level: int, added: Rows | None = None
    ) -> Rows:
        between = self._block(into, modules[0], x, level, plus=added)
        return self._block(into, modules[1], between, level)

    def _shorter(self, into: list[Operation], conv: Any, x: Rows, level: int) -> Rows:
        """A convolution of three taps at every second position."""
        out = self._buffer(level, x.channels)
        start = x.place(-1, every=2)
        weight = taps(conv.weight, x.ld)
        into.append(convolve(self.packed, weight, conv.bias, start, out.place(), out.length))
        return out

    def _longer(self, into: list[Operation], conv: Any, x: Rows, to: Rows) -> None:
        """A transposed convolution of four taps: two of them make even positions, two odd ones."""
        taps_of = conv.weight.transpose(0, 1)  # (out, in, 4)
        for first, chosen, start in ((0, [3, 1], x.place(-1)), (1, [2, 0], x.place())):
            weight, place = taps(taps_of[..., chosen], x.ld), to.place(first, every=2)
            into.append(convolve(self.packed, weight, conv.bias, start, place, x.length))

    def _join(self, into: list[Operation], deep: Rows, skip: Rows, level: int) -> Rows:
        """Channels of both, side by side."""
        joined = self._shared("joined", level, deep.channels + skip.channels)
        into.append(moved(COPY, deep, joined.place()))
        into.append(moved(COPY, skip, joined.place(channel=deep.channels)))
        return joined

    def _final(self, into: list[Operation]) -> None:
        first, last = self.model.final_conv[0].block, self.model.final_conv[1]
        channels = first[0].out_channels
        raw, hidden = (self._shared(name, 0, channels) for name in ("raw", "hidden"))
        self._convolve(into, first[0], self.back[0], raw)
        into.append(norm(self.packed, first[1], raw, hidden))
        self.out = self._buffer(0, last.out_channels)
        self._convolve(into, last, hidden, self.out)

    def _tell(self, timesteps: Tensor) -> None:
        """The table of steps, and what makes a row of what was observed."""
        embedded, panel = self.sizes.diffusion_step_embed_dim, self.packed.panel
        weights, biases = [], []
        for layer in self.told:
            for part in layer.weight.detach().chunk(1 + self.sizes.cond_predict_scale):
                weights.append(torch.nn.functional.pad(part, (0, 0, 0, -len(part) % panel)))
            for part in layer.bias.detach().chunk(1 + self.sizes.cond_predict_scale):
                biases.append(padded(part, panel))
        weight, bias = torch.cat(weights), torch.cat(biases)
        activated = torch.nn.functional.mish(self.model.diffusion_step_encoder(timesteps))
        self.times = (activated @ weight[:, :embedded].T + bias).contiguous()
        self.time = self.times[0]
        self.seen = torch.zeros(self.batch, len(bias))
        if self.sizes.obs_as != "global":
            return
        n_seen = weight.shape[1] - embedded
        self.observed = Rows.zeros(self.batch, 1, n_seen, 0, panel)
        start, to = self.observed, Place(self.seen.data_ptr(), len(bias), len(bias))
        observing = torch.nn.functional.pad(weight[:, embedded:], (0, start.ld - n_seen))
        nothing = torch.zeros(len(bias))
        self.seeing = self._cut(
            [
                moved(MISH, start, start.place()),
                convolve(self.packed, observing, nothing, start.place(), to, 1),
            ]
        )
