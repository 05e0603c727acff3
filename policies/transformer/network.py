"""The low-dimensional diffusion transformer of Chi et al. 2023 (Diffusion Policy).

Parameter names and shapes are those of the reference implementation, so weights go both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..denoiser import Branch, TimeEmbedding
from .config import NetworkConfig


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
