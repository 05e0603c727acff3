"""The denoiser of LeRobot's multi_task_dit: a transformer with adaLN-zero (Peebles & Xie 2023).

Parameters have LeRobot's names, but for two things (keys.py): each half of a block's modulation,
that of its attention and that of its feed-forward, is a layer of its own, so that a cache skips all
that belongs to what it skips; and attention has one form.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..denoiser import Branch, TimeEmbedding
from .config import DitConfig

EPS = 1e-6  # of its norms, which have no weights


class Rotary(nn.Module):
    """Queries and keys (B, heads, T, width) turned by their place (Su et al. 2021)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, length: int, base: float) -> None:
        super().__init__()
        angles = 1.0 / base ** (torch.arange(0, width, 2).float() / width)
        both = torch.outer(torch.arange(length).float(), angles).repeat(1, 2)
        self.register_buffer("cos", both.cos(), persistent=False)
        self.register_buffer("sin", both.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        length = x.shape[-2]
        turned = torch.cat([-second, first], dim=-1)
        out: Tensor = x * self.cos[:length] + turned * self.sin[:length]
        return out


class Attention(nn.Module):
    """Self-attention of all tokens with each other, (B, T, n_emb) -> the same."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        dim, self.heads, self.p_drop = config.n_emb, config.n_head, config.p_drop_attn
        self.qkv_proj, self.out_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        width = dim // self.heads
        self.rope = Rotary(width, config.horizon, config.rope_base) if config.use_rope else None

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind()
        if self.rope is not None:
            q, k = self.rope(q), self.rope(k)
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=self.p_drop if self.training else 0.0
        )
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Modulation(nn.Module):
    """What a branch is told: its normalised input, scaled and shifted, and the gate of its output.

    (B, T, n_emb) the stream, (B, seen_dim) what every block sees, activated -> (B, T, n_emb),
    (B, 1, n_emb).
    """

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.n_emb, eps=EPS, elementwise_affine=False)
        self.linear = nn.Linear(config.seen_dim, 3 * config.n_emb)

    def forward(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, gate = self.linear(seen)[:, None].chunk(3, dim=-1)
        return self.norm(x) * (1 + scale) + shift, gate


class Block(nn.Module):
    """A block whose two residual branches can be intercepted one by one."""

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        dim = config.n_emb
        self.attn, self.attn_modulation = Attention(config), Modulation(config)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim)
        )
        self.mlp_modulation = Modulation(config)

    def sa(self, x: Tensor, seen: Tensor) -> Tensor:
        told, gate = self.attn_modulation(x, seen)
        out: Tensor = gate * self.attn(told)
        return out

    def ff(self, x: Tensor, seen: Tensor) -> Tensor:
        told, gate = self.mlp_modulation(x, seen)
        out: Tensor = gate * self.mlp(told)
        return out


class Dit(nn.Module):
    """Noisy trajectory, time, observations -> noise, clean trajectory or velocity.

    Its sites are what each block's attention and feed-forward add to the stream, gated.
    """

    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        self.config = config
        dim, width = config.n_emb, config.timestep_embed_dim
        self.time_mlp = nn.Sequential(
            TimeEmbedding(width),
            *(nn.Linear(width, 2 * width), nn.GELU()),
            *(nn.Linear(2 * width, width), nn.GELU()),
        )
        self.input_proj = nn.Linear(config.input_dim, dim)
        learnt = torch.zeros(1, config.horizon, dim) if config.use_positional_encoding else None
        self.pos_embedding = None if learnt is None else nn.Parameter(learnt)
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.output_proj = nn.Linear(dim, config.output_dim)

    def seen(self, timestep: Tensor, cond: Tensor) -> Tensor:
        """(B,), (B, n_obs_steps, cond_dim) -> (B, seen_dim), what every block sees, activated."""
        told = torch.cat([self.time_mlp(timestep), cond.flatten(1)], dim=-1)
        return nn.functional.silu(told)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        cond: Tensor,
        branch: Branch | None = None,
    ) -> Tensor:
        """One denoising call.

        Args:
            sample: (B, T, input_dim) the noisy trajectory, normalised.
            timestep: (B,) diffusion timesteps, or times from 0 to 1 of flow matching.
            cond: (B, n_obs_steps, cond_dim) encoded observations.
            branch: intercepts what blocks add; None computes it all.

        Returns:
            (B, T, output_dim)
        """
        x = self.input_proj(sample)
        if self.pos_embedding is not None:
            x = x + self.pos_embedding[:, : x.shape[1]]
        seen = self.seen(timestep, cond)
        site = 0
        for block in self.transformer_blocks:
            assert isinstance(block, Block)
            for compute in (block.sa, block.ff):
                value = partial(compute, x, seen)
                x = x + (value() if branch is None else branch(site, value))
                site += 1
        out: Tensor = self.output_proj(x)
        return out
