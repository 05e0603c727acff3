"""A UNet's denoising call as operations of unet.h, level by level, for one batch size.

What time and observations say to the blocks is linear in each of the two once they are activated,
so it is a table over the sampler's steps, made once, and a row of the batch, made once a query.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..kernels.native import library, one_thread
from ..kernels.operations import (
    MISH,
    Operation,
    Section,
    norm,
    padded,
)
from ..kernels.packed import Packed
from .sections import Cutter, Seeing, run
from .unet_layers import Layers

Branch = Callable[[int, Callable[[], Tensor]], Tensor]


class UnetProgram:
    """Called as the network is: (sample, timestep, cond, branch) -> the network's output.

    Args:
        policy: with a UNet; its `model` has the reference implementation's names.
        batch: rows of every call.
        precision: of the engine: exact, half or bf16.
        kernels: {quantised layer: kernel}, as in `Layers`.
    """

    def __init__(
        self,
        policy: Any,
        batch: int,
        precision: str = "exact",
        kernels: Mapping[Any, str] | None = None,
    ) -> None:
        loaded = library()
        assert loaded is not None
        self.model, self.sizes, self.batch = policy.model, policy.sizes, batch
        self.packed = Packed(loaded, precision)
        self.layers = Layers(self.packed, self.sizes, batch, policy.n_tokens, kernels)
        self._build()
        steps = torch.as_tensor(policy.table.timesteps)
        self.step_of = {t: i for i, t in enumerate(steps.tolist())}
        with one_thread():
            self._tell(steps)

    def observe(self, cond: Tensor) -> None:
        """What a query has seen: (B, n_obs_steps, cond_dim) normalised."""
        if self.sizes.obs_as == "global":
            self.seeing(cond)
        elif self.sizes.obs_as == "local":
            self.local.view[:, : cond.shape[1]] = cond

    def __call__(
        self, sample: Tensor, timestep: Tensor, cond: Tensor | None, branch: Branch | None = None
    ) -> Tensor:
        """One denoising call; arguments as the network's, of the query that was observed."""
        self.time = self.times[self.step_of[timestep[0].item()]]
        self.entered.view.copy_(sample)
        self._run(self.first)
        self._below(0, branch)
        self._run(self.last)
        return self.out.view.clone()

    def _below(self, level: int, branch: Branch | None) -> None:
        """A level's features to what comes back up to it, in `self.back[level]`."""
        if level == len(self.layers.lengths) - 1:
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
        run(sections, self.time, self.seen)

    def _build(self) -> None:
        """Buffers and sections, in the order in which the network runs them."""
        model, dims, sizes, layers = self.model, self.sizes.down_dims, self.sizes, self.layers
        self.entered = layers.buffer(0, sizes.input_dim)
        first: list[Operation] = []
        added = None
        if sizes.obs_as == "local":
            self.local = layers.buffer(0, sizes.cond_dim)
            added = layers.block(first, model.local_cond_encoder[0], self.local, 0)
        features = layers.pair(first, model.down_modules[0], self.entered, 0, added)
        downs: list[list[Operation]] = []
        ups: list[list[Operation]] = []
        skips = [features]
        self.back = [layers.buffer(level, dim) for level, dim in enumerate(dims)]
        for level in range(1, len(dims)):
            down: list[Operation] = []
            shorter = layers.shorter(down, model.down_modules[level - 1][2].conv, features, level)
            features = layers.pair(down, model.down_modules[level], shorter, level)
            downs.append(down)
            skips.append(features)
        middle: list[Operation] = []
        deep = layers.block(middle, model.mid_modules[0], features, len(dims) - 1)
        last = len(dims) - 1
        layers.block(middle, model.mid_modules[1], deep, last, to=self.back[last])
        for level in range(last - 1, -1, -1):
            up: list[Operation] = []
            joined = layers.join(up, self.back[level + 1], skips[level + 1], level + 1)
            out = layers.pair(up, model.up_modules[-1 - level], joined, level + 1)
            layers.longer(up, model.up_modules[-1 - level][2].conv, out, self.back[level])
            ups.insert(0, up)
        final: list[Operation] = []
        self._final(final)
        everything = [*first, *middle, *final, *itertools.chain(*downs, *ups)]
        self.cutter = Cutter(self.packed, self.batch, everything, 3 * self.layers.widest)
        self.first, self.middle, self.last = (self.cutter.cut(s) for s in (first, middle, final))
        self.down, self.up = [self.cutter.cut(s) for s in downs], [self.cutter.cut(s) for s in ups]

    def _final(self, into: list[Operation]) -> None:
        layers, last = self.layers, self.model.final_conv[1]
        first = self.model.final_conv[0].block
        channels = first[0].out_channels
        raw, hidden = (layers.shared(name, 0, channels) for name in ("raw", "hidden"))
        layers.convolve(into, first[0], self.back[0], raw)
        into.append(norm(self.packed, first[1], raw, hidden))
        self.out = layers.buffer(0, last.out_channels)
        layers.convolve(into, last, hidden, self.out)

    def _tell(self, timesteps: Tensor) -> None:
        """The table of steps, and what makes a row of what was observed."""
        embedded, panel = self.sizes.diffusion_step_embed_dim, self.packed.panel
        weights, biases = [], []
        for layer in self.layers.told:
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
        # once a query: there is nothing to save
        once = Packed(self.packed.loaded) if self.packed.precision == "bf16" else self.packed
        self.seeing = Seeing(once, self.batch, weight[:, embedded:], MISH)
        self.seen = self.seeing.said
