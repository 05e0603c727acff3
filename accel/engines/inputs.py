"""What a query of the fused engine is given: its noise, and the memory that it attends to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from skipstep.starts import row_noise

from ..kernels.linear import linear
from ..protocol import Noise, Transparent
from ..quant.kernels import build, candidates
from .parts import Weights, layers_of, part_of


def draw_noise(policy: Transparent, batch: int, noise: Noise) -> Tensor:
    """The initial trajectory and each step's noise, (N + 1, B, live, width).

    Drawn at full length, then cut, one draw per generator and step: a larger draw would give other
    numbers. Steps that consume none are zero.
    """
    full = policy.n_tokens - (1 if policy.sizes.encoder_only else 0)
    draws = [True, *policy.table.draws.tolist()]
    drawn = torch.zeros(len(draws), batch, full, policy.sizes.input_dim)
    single = isinstance(noise, torch.Generator)
    rows = drawn[:, None] if single else drawn[:, :, None]
    generators = [noise] if isinstance(noise, torch.Generator) else list(noise)
    for row, generator in enumerate(generators):
        for i, needed in enumerate(draws):
            if needed:
                target = rows[i, row]
                target.copy_(row_noise(generator, target.shape))
    return drawn[:, :, : policy.n_live]


def _each(projections: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """(..., E) -> (..., layers * 2E), where some layers are quantised."""
    flat = x.reshape(-1, x.shape[-1])
    return torch.cat([project(flat) for project in projections], 1).view(*x.shape[:-1], -1)


class Memory:
    """Keys and values of the memory tokens of every layer, (2, layers, B, heads, m, head width).

    kernels: {layer: kernel} of those projections that are quantised.
    """

    def __init__(self, policy: Transparent, batch: int, chosen: Mapping[str, str]) -> None:
        model, sizes = policy.model, policy.sizes
        self.model, self.mixed = model, sizes.n_cond_layers > 0
        layers = [layer.multihead_attn for layer in model.decoder.layers]
        dim, heads = sizes.n_emb, layers[0].num_heads
        parts = [part_of(layer, "ca.kv") for layer in layers_of(policy)]
        self.kernels: dict[str, str] = {}
        plain = [part for part in parts if isinstance(part, Weights)]
        self.project: Callable[[Tensor], Tensor]
        if len(plain) == len(parts):
            weight, bias = (torch.cat(tensors) for tensors in zip(*plain, strict=True))
            self.project = linear(weight, bias, batch * sizes.n_memory)
        else:
            projections: list[Callable[[Tensor], Tensor]] = []
            for index, part in enumerate(parts):
                if isinstance(part, Weights):
                    projections.append(linear(*part, batch * sizes.n_memory))
                    continue
                name = f"{index}.ca.kv"
                self.kernels[name] = chosen.get(name) or candidates(part)[0]
                projections.append(build(self.kernels[name], part, batch * sizes.n_memory))
            self.project = partial(_each, projections)
        self.shape = (len(layers), 2, heads, dim // heads)
        self.buffer = torch.empty(
            (2, len(layers), batch, heads, sizes.n_memory, dim // heads), device=policy.device
        )
        self.times = torch.as_tensor(policy.table.timesteps, device=policy.device)
        self.batch = batch
        self.cond: Tensor | None = None
        if not self.mixed:
            position = model.cond_pos_emb[0]
            tokens = model.encoder(model.time_emb(self.times) + position[:1])
            self.time = self._split(self.project(tokens).view(len(self.times), 1, 1, -1))

    def of_layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.buffer[0, index], self.buffer[1, index]

    def _split(self, projected: Tensor) -> Tensor:
        """(..., B, m, layers * 2 * dim) -> (..., 2, layers, B, heads, m, head width)."""
        lead = projected.ndim - 3
        split = projected.view(*projected.shape[:-1], *self.shape)
        b, m, layer, kv, head, width = range(lead, lead + 6)
        return split.permute(*range(lead), kv, layer, b, head, m, width)

    def observe(self, nobs: Tensor | None) -> None:
        """A new query: observation tokens, which do not depend on the step unless tokens mix."""
        self.cond = nobs
        if self.mixed or nobs is None:
            return
        tokens = self.model.cond_obs_emb(nobs) + self.model.cond_pos_emb[0, 1:]
        tokens = self.model.encoder(tokens)
        projected = self.project(tokens.view(-1, tokens.shape[-1]))
        self.buffer[..., 1:, :] = self._split(projected.view(*tokens.shape[:2], -1))

    def at_step(self, s: int) -> None:
        """The time token of a step; all tokens where a condition encoder mixes them."""
        if not self.mixed:
            self.buffer[..., :1, :] = self.time[s]
            return
        tokens = self.model.memory(self.times[s].expand(self.batch), self.cond)
        projected = self.project(tokens.reshape(-1, tokens.shape[-1]))
        self.buffer.copy_(self._split(projected.view(*tokens.shape[:2], -1)))
