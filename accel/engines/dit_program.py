"""A DiT's denoising call as operations of dit.h, branch by branch, for one batch size.

Time and observations are activated number by number, side by side, before each branch's linear
layer reads both. So what that layer says is a table over the sampler's steps, made once, and a row
of the batch, made once a query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.native import library, one_thread
from ..kernels.operations import (
    CURVE,
    GATE,
    MIX,
    MODULATE,
    PLUS,
    TURN,
    Operation,
    Rows,
    convolve,
    moved,
)
from ..kernels.packed import Linear, Packed
from ..quant.kernels import packed
from ..quant.linear import QuantisedLinear
from .sections import Cutter, Seeing, run

Branch = Callable[[int, Callable[[], Tensor]], Tensor]


class DitProgram:
    """Called as the network is: (sample, timestep, cond, branch) -> the network's output.

    Args:
        policy: with a DiT.
        batch: rows of every call.
        precision: of the engine: exact, half or bf16.
        kernels: {quantised layer: kernel}, native or fp32; else the first that runs it.
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
        self.packed, self.kernels = Packed(loaded, precision), kernels or {}
        self.length, self.told = policy.n_tokens, list[Any]()
        self._build()
        steps = torch.as_tensor(policy.table.timesteps)
        self.step_of = {t: i for i, t in enumerate(steps.tolist())}
        with one_thread():
            self._tell(steps)

    def observe(self, cond: Tensor) -> None:
        """What a query has seen: (B, n_obs_steps, cond_dim) normalised."""
        self.seeing(cond)
        if self.recoded:
            with one_thread():
                self._recode()

    def __call__(
        self, sample: Tensor, timestep: Tensor, cond: Tensor, branch: Branch | None = None
    ) -> Tensor:
        """One denoising call; arguments as the network's, of the query that was observed."""
        step = self.step_of[timestep[0].item()]
        time, seen = self.times[step], self.seen_of[step] if self.recoded else self.seeing.said
        self.entered.view.copy_(sample)
        if branch is None:
            run(self.whole, time, seen)
            return self.out.view.clone()
        run(self.first, time, seen)
        for site, sections in enumerate(self.sites):

            def compute(sections: Any = sections) -> Tensor:
                run(sections, time, seen)
                return self.value.view.clone()

            self.value.view.copy_(branch(site, compute))
            run(self.added, time, seen)
        run(self.last, time, seen)
        return self.out.view.clone()

    # --- operations

    def _rows(self, channels: int) -> Rows:
        return Rows.zeros(self.batch, self.length, channels, 0, self.packed.panel)

    def _linear(self, layer: Any) -> Linear:
        if isinstance(layer, QuantisedLinear):
            return packed(self.packed, layer, self.kernels.get(layer), layer.name)[0]
        return self.packed.linear(layer.weight, layer.bias)

    def _through(self, layer: Any, x: Rows, to: Rows) -> Operation:
        return convolve(self._linear(layer), x.place(), to.place(), self.length)

    def _build(self) -> None:
        """Buffers and sections, in the order in which the network runs them."""
        model, dim = self.model, self.sizes.n_emb
        self.entered, self.out = self._rows(self.sizes.input_dim), self._rows(self.sizes.output_dim)
        self.stream, self.value, self.normed, self.mixed, self.raw = (
            self._rows(dim) for _ in range(5)
        )
        self.wide = {"sa": self._rows(3 * dim), "ff": self._rows(4 * dim)}
        first = [self._through(model.input_proj, self.entered, self.stream)]
        if model.pos_embedding is not None:
            self.places = self._rows(dim)
            self.places.view.copy_(model.pos_embedding[:, : self.length].detach())
            first.append(moved(PLUS, self.places, self.stream.place()))
        sites = [
            operations
            for block in model.transformer_blocks
            for operations in (self._attention(block), self._feed_forward(block))
        ]
        added = [moved(PLUS, self.value, self.stream.place())]
        last = [self._through(model.output_proj, self.stream, self.out)]
        whole = [*first, *(o for site in sites for o in (*site, *added)), *last]
        floats = 2 * self.wide["ff"].ld + 2 * self.length + self.packed.panel
        cutter = Cutter(self.packed, self.batch, whole, floats)
        self.first, self.added, self.last = cutter.cut(first), cutter.cut(added), cutter.cut(last)
        self.sites = [cutter.cut(site) for site in sites]
        self.whole = cutter.cut(whole)

    def _branch(self, modulation: Any, inside: list[Operation]) -> list[Operation]:
        """The norm, what time and observations say of it, `inside`, and the gate."""
        told = len(self.told) * 3 * self.stream.ld
        self.told.append(modulation.linear)
        eps = modulation.norm.eps
        return [
            moved(MODULATE, self.stream, self.normed.place(), told=told, eps=eps),
            *inside,
            moved(GATE, self.raw, self.value.place(), told=told),
        ]

    def _attention(self, block: Any) -> list[Operation]:
        attention, wide = block.attn, self.wide["sa"]
        shape = {"channels": self.sizes.n_emb, "groups": attention.heads}
        inside = [self._through(attention.qkv_proj, self.normed, wide)]
        if attention.rope is not None:
            half = self.sizes.n_emb // attention.heads // 2
            angles = (attention.rope.cos, attention.rope.sin)
            pointers = (self.packed.pointer(a[: self.length, :half]) for a in angles)
            turned = dict(zip(("weight", "bias"), pointers, strict=True))
            inside.append(moved(TURN, wide, wide.place(), **shape, **turned))
        inside.append(moved(MIX, wide, self.mixed.place(), **shape))
        inside.append(self._through(attention.out_proj, self.mixed, self.raw))
        return self._branch(block.attn_modulation, inside)

    def _feed_forward(self, block: Any) -> list[Operation]:
        wide = self.wide["ff"]
        inside = [
            self._through(block.mlp[0], self.normed, wide),
            moved(CURVE, wide, wide.place()),
            self._through(block.mlp[2], wide, self.raw),
        ]
        return self._branch(block.mlp_modulation, inside)

    # --- what time and observations say

    def _tell(self, timesteps: Tensor) -> None:
        """The table of steps, and what makes a row of what was observed."""
        embedded, dim = self.sizes.timestep_embed_dim, self.sizes.n_emb
        self.activated = F.silu(self.model.time_mlp(timesteps))
        self.recoded = [i for i, t in enumerate(self.told) if isinstance(t, QuantisedLinear)]
        silent = torch.zeros(3 * dim, self.sizes.seen_dim), torch.zeros(3 * dim)
        pairs = [
            silent if isinstance(t, QuantisedLinear) else (t.weight.detach(), t.bias.detach())
            for t in self.told
        ]
        weight = torch.cat([self._spaced(weight) for weight, _ in pairs])
        bias = torch.cat([self._spaced(bias[:, None]) for _, bias in pairs])[:, 0]
        self.times = (self.activated @ weight[:, :embedded].T + bias).contiguous()
        once = Packed(self.packed.loaded)  # once a query: there is nothing to save
        self.seeing = Seeing(once, self.batch, weight[:, embedded:], CURVE, scales=1)

    def _spaced(self, rows: Tensor) -> Tensor:
        """(3 n_emb, n) of shift, scale and gate -> each filled up to whole panels."""
        missing = self.stream.ld - self.sizes.n_emb
        return torch.cat([F.pad(part, (0, 0, 0, missing)) for part in rows.chunk(3)])

    def _recode(self) -> None:
        """What quantised layers say, for all steps at once: codes of both are not two sums."""
        steps, wide, dim = len(self.activated), self.stream.ld, self.sizes.n_emb
        of_time = self.activated[:, None].expand(-1, self.batch, -1)
        observed = self.seeing.observed.view[:, 0].expand(steps, -1, -1)  # it is activated by now
        both = torch.cat([of_time, observed], dim=2)
        self.seen_of = self.seeing.said.expand(steps, -1, -1).clone()
        for i in self.recoded:
            for part, said in enumerate(self.told[i](both).chunk(3, dim=2)):
                at = (3 * i + part) * wide
                self.seen_of[..., at : at + dim] = said
