"""The low-dimensional diffusion transformer of Chi et al. 2023 (Diffusion Policy).

Parameter names and shapes are those of the reference implementation, so weights go both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

Compute = Callable[[], Tensor]
Branch = Callable[[int, Compute], Tensor]
"""(site index, how to compute its branch) -> what is added to the stream; called in order."""


@dataclass
class NetworkConfig:
    """Sizes of a `DiffusionTransformer`, under the reference implementation's names."""

    family: ClassVar[str] = "transformer"
    length_multiple: ClassVar[int] = 1

    input_dim: int
    output_dim: int
    horizon: int
    n_obs_steps: int
    cond_dim: int = 0
    n_layer: int = 8
    n_head: int = 4
    n_emb: int = 256
    p_drop_emb: float = 0.0
    p_drop_attn: float = 0.1
    causal_attn: bool = True
    time_as_cond: bool = True
    obs_as_cond: bool = True
    n_cond_layers: int = 0

    def __post_init__(self) -> None:
        for name in (
            "input_dim",
            "output_dim",
            "horizon",
            "n_obs_steps",
            "n_layer",
            "n_head",
            "n_emb",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name} must be at least 1, got {getattr(self, name)}")
        if self.n_emb % (2 * self.n_head):
            raise ValueError(
                f"network.n_emb must be a multiple of 2 * n_head = {2 * self.n_head}, "
                f"got {self.n_emb}"
            )
        if self.obs_as_cond != (self.cond_dim > 0):
            raise ValueError(
                f"network.cond_dim must be positive exactly if obs_as_cond, got {self.cond_dim}"
            )
        if self.obs_as_cond and not self.time_as_cond:
            raise ValueError("network.time_as_cond must be true with obs_as_cond, got false")

    @property
    def encoder_only(self) -> bool:
        """Whether time is a token of the trajectory and nothing else is attended to."""
        return not self.time_as_cond

    @property
    def n_tokens(self) -> int:
        return self.horizon + (1 if self.encoder_only else 0)

    @property
    def n_memory(self) -> int:
        """Tokens the cross-attention sees: the time, and observations that are conditions."""
        return 0 if self.encoder_only else 1 + (self.n_obs_steps if self.obs_as_cond else 0)

    @property
    def branches(self) -> tuple[str, ...]:
        return ("sa", "ff") if self.encoder_only else ("sa", "ca", "ff")

    @property
    def any_length(self) -> bool:
        """Whether the trajectory may be the executed actions alone."""
        return self.obs_as_cond

    @property
    def first_action(self) -> int:
        """Index in the trajectory of the first executed action, that of the newest observation."""
        return self.n_obs_steps - 1

    def __str__(self) -> str:
        return f"{self.n_layer} layers of width {self.n_emb}"


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding (B,) -> (B, dim); sines first, as in the reference."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, timestep: Tensor) -> Tensor:
        half = self.dim // 2
        exponent = torch.arange(half, device=timestep.device) * (-math.log(10000) / (half - 1))
        angle = timestep[:, None] * exponent.exp()[None, :]
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Layer(nn.Module):
    """A pre-norm transformer layer whose residual branches can be intercepted one by one."""

    def __init__(self, config: NetworkConfig, cross: bool) -> None:
        super().__init__()
        dim, heads, drop = config.n_emb, config.n_head, config.p_drop_attn
        self.self_attn = nn.MultiheadAttention(dim, heads, drop, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        if cross:
            self.multihead_attn = nn.MultiheadAttention(dim, heads, drop, batch_first=True)
            self.norm3 = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.p_drop, self.cross = drop, cross

    def sa(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm1(x)
        out: Tensor = self.self_attn(x, x, x, attn_mask=mask, need_weights=False)[0]
        return self._drop(out)

    def ca(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm2(x)
        out: Tensor = self.multihead_attn(x, memory, memory, attn_mask=mask, need_weights=False)[0]
        return self._drop(out)

    def ff(self, x: Tensor) -> Tensor:
        x = (self.norm3 if self.cross else self.norm2)(x)
        hidden = self._drop(nn.functional.gelu(self.linear1(x)))
        return self._drop(self.linear2(hidden))

    def _drop(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.p_drop, self.training)


class Stack(nn.Module):
    """A run of layers; `branch` sees its sites as (layer, sa < ca < ff)."""

    def __init__(self, config: NetworkConfig, n_layer: int, cross: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, cross) for _ in range(n_layer))

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        branch: Branch | None = None,
    ) -> Tensor:
        site = 0
        for layer in self.layers:
            assert isinstance(layer, Layer)
            computes: list[Callable[[Tensor], Tensor]] = [partial(layer.sa, mask=mask), layer.ff]
            if memory is not None:
                computes.insert(1, partial(layer.ca, memory=memory, mask=memory_mask))
            for compute in computes:
                x = x + (compute(x) if branch is None else branch(site, partial(compute, x)))
                site += 1
        return x


def attention_mask(visible: Tensor) -> Tensor:
    """Bool (T, S), true where visible -> the float mask that is added to attention scores."""
    return torch.zeros(visible.shape).masked_fill(~visible, float("-inf"))


class DiffusionTransformer(nn.Module):
    """Noisy trajectory, timestep, observations -> the noise (or the clean trajectory)."""

    mask: Tensor | None
    memory_mask: Tensor | None

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dim, n_tokens, n_memory = config.n_emb, config.n_tokens, config.n_memory
        self.input_emb = nn.Linear(config.input_dim, dim)
        self.pos_emb = nn.Parameter(torch.zeros(1, n_tokens, dim))
        self.drop = nn.Dropout(config.p_drop_emb)
        self.time_emb = TimeEmbedding(dim)
        if config.obs_as_cond:
            self.cond_obs_emb = nn.Linear(config.cond_dim, dim)
        if config.encoder_only:
            self.encoder: nn.Module = Stack(config, config.n_layer, cross=False)
        else:
            self.cond_pos_emb = nn.Parameter(torch.zeros(1, n_memory, dim))
            self.encoder = (
                Stack(config, config.n_cond_layers, cross=False)
                if config.n_cond_layers
                else nn.Sequential(nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))
            )
            self.decoder = Stack(config, config.n_layer, cross=True)
        mask = memory_mask = None
        if config.causal_attn:
            query = torch.arange(n_tokens)[:, None]
            mask = attention_mask(query >= torch.arange(n_tokens)[None, :])
            if config.obs_as_cond:  # memory token 0 is the time, token s the observation s - 1
                memory_mask = attention_mask(query >= torch.arange(n_memory)[None, :] - 1)
        self.register_buffer("mask", mask)
        self.register_buffer("memory_mask", memory_mask)
        self.ln_f = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, config.output_dim)

    def memory(self, timestep: Tensor, cond: Tensor | None) -> Tensor:
        """(B,), (B, n_obs_steps, cond_dim) -> (B, n_memory, n_emb), what cross-attention sees."""
        tokens = self.time_emb(timestep)[:, None]
        if self.config.obs_as_cond:
            tokens = torch.cat([tokens, self.cond_obs_emb(cond)], dim=1)
        tokens = tokens + self.cond_pos_emb[:, : tokens.shape[1]]
        memory: Tensor = self.encoder(self.drop(tokens))
        return memory

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        cond: Tensor | None = None,
        branch: Branch | None = None,
    ) -> Tensor:
        """One denoising call.

        Args:
            sample: (B, T, input_dim) the noisy trajectory, normalised.
            timestep: (B,) diffusion timesteps.
            cond: (B, n_obs_steps, cond_dim) normalised observations; None for in-painting.
            branch: intercepts the residual branches of the main stack; None computes them all.

        Returns:
            (B, T, output_dim)
        """
        x = self.input_emb(sample)
        if self.config.encoder_only:
            x = torch.cat([self.time_emb(timestep)[:, None], x], dim=1)
            x = self.drop(x + self.pos_emb[:, : x.shape[1]])
            x = self.encoder(x, mask=self.mask, branch=branch)[:, 1:]
        else:
            x = self.drop(x + self.pos_emb[:, : x.shape[1]])
            memory = self.memory(timestep, cond)
            x = self.decoder(x, memory, self.mask, self.memory_mask, branch)
        out: Tensor = self.head(self.ln_f(x))
        return out
