"""The one-dimensional UNet of Chi et al. 2023 (Diffusion Policy), for low-dimensional observations.

Parameter names and shapes are those of the reference implementation, so weights go both ways.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..denoiser import Branch, TimeEmbedding
from .config import FINAL_GROUPS, UnetConfig

VECTOR = 32  # float32 that torch's kernels take at once, at most


class ConvBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(n_in, n_out, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(n_groups, n_out),
            nn.Mish(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


def activated(x: Tensor) -> Tensor:
    """Mish of (B, n), with rows of whole vectors: torch rounds the rest of a tensor otherwise.

    So a row is the same wherever in the batch it is.
    """
    padded = nn.functional.mish(nn.functional.pad(x, (0, -x.shape[1] % VECTOR)))
    return padded[:, : x.shape[1]]


class ResidualBlock(nn.Module):
    """Two convolutions, what time and observations say in between, and a shortcut."""

    def __init__(self, config: UnetConfig, n_in: int, n_out: int) -> None:
        super().__init__()
        self.scales = config.cond_predict_scale
        self.blocks = nn.ModuleList(
            ConvBlock(n, n_out, config.kernel_size, config.n_groups) for n in (n_in, n_out)
        )
        self.cond_encoder = nn.Sequential(  # activated before, as it is the same for all blocks
            nn.Identity(), nn.Linear(config.seen_dim, n_out * (2 if self.scales else 1))
        )
        self.residual_conv = nn.Identity() if n_in == n_out else nn.Conv1d(n_in, n_out, 1)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(B, n_in, length), (B, seen_dim) -> (B, n_out, length)."""
        out, said = self.blocks[0](x), self.cond_encoder(seen)[..., None]
        if self.scales:
            scale, said = said.chunk(2, dim=1)
            out = scale * out
        result: Tensor = self.blocks[1](out + said) + self.residual_conv(x)
        return result


class Resample(nn.Module):
    """Half or twice the length."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


def parts(levels: nn.ModuleList, index: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Two residual blocks, and what changes the length."""
    level = levels[index]
    assert isinstance(level, nn.ModuleList)
    first, second, resample = level
    return first, second, resample


class Unet(nn.Module):
    """Noisy trajectory, timestep, observations -> the noise (or the clean trajectory).

    Two peculiarities are the published checkpoints', and so of the reference implementation: the
    features of level 0 skip nowhere, and the second of the two local encoders is never used.
    """

    def __init__(self, config: UnetConfig) -> None:
        super().__init__()
        self.config = config
        dims, embedded = config.down_dims, config.diffusion_step_embed_dim
        block = partial(ResidualBlock, config)
        self.diffusion_step_encoder = nn.Sequential(
            TimeEmbedding(embedded),
            nn.Linear(embedded, 4 * embedded),
            nn.Mish(),
            nn.Linear(4 * embedded, embedded),
        )
        if config.obs_as == "local":
            self.local_cond_encoder = nn.ModuleList(
                block(config.cond_dim, dims[0]) for _ in range(2)
            )
        self.down_modules = nn.ModuleList()
        for n_in, n_out in zip([config.input_dim, *dims], dims, strict=False):
            last = len(self.down_modules) == len(dims) - 1
            shorter = nn.Identity() if last else Resample(nn.Conv1d(n_out, n_out, 3, 2, 1))
            self.down_modules.append(
                nn.ModuleList([block(n_in, n_out), block(n_out, n_out), shorter])
            )
        self.mid_modules = nn.ModuleList(block(dims[-1], dims[-1]) for _ in range(2))
        self.up_modules = nn.ModuleList()
        for n_out, n_in in zip(dims[-2::-1], dims[:0:-1], strict=True):
            longer = Resample(nn.ConvTranspose1d(n_out, n_out, 4, 2, 1))
            self.up_modules.append(
                nn.ModuleList([block(2 * n_in, n_out), block(n_out, n_out), longer])
            )
        self.final_conv = nn.Sequential(
            ConvBlock(dims[0], dims[0], config.kernel_size, FINAL_GROUPS),
            nn.Conv1d(dims[0], config.input_dim, 1),
        )

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
            branch: intercepts the deep part below each level; None computes everything. Site k is
                what enters the way up at level k + 1 beside that level's own features: (B,
                down_dims[k + 1], T / 2^(k + 1)), from a computation that asks for site k + 1.

        Returns:
            (B, T, input_dim)
        """
        x, seen, added = sample.transpose(1, 2), self.diffusion_step_encoder(timestep), None
        if self.config.obs_as == "global":
            assert cond is not None
            seen = torch.cat([seen, cond.flatten(1)], dim=-1)
        seen = activated(seen)
        if self.config.obs_as == "local":
            assert cond is not None
            padding = (0, 0, 0, sample.shape[1] - cond.shape[1])  # nothing is known of the future
            padded = nn.functional.pad(cond, padding)
            added = self.local_cond_encoder[0](padded.transpose(1, 2), seen)
        x = self._down(0, x, seen, added)
        out: Tensor = self.final_conv(self._below(0, x, seen, branch))
        return out.transpose(1, 2)

    def _down(self, level: int, x: Tensor, seen: Tensor, added: Tensor | None = None) -> Tensor:
        first, second, _ = parts(self.down_modules, level)
        x = first(x, seen)
        out: Tensor = second(x if added is None else x + added, seen)
        return out

    def _below(self, level: int, x: Tensor, seen: Tensor, branch: Branch | None) -> Tensor:
        """A level's features -> what comes back up to it from the levels below."""
        x = parts(self.down_modules, level)[2](x)
        if level == len(self.down_modules) - 1:
            for block in self.mid_modules:
                x = block(x, seen)
            return x
        skip = self._down(level + 1, x, seen)
        compute = partial(self._below, level + 1, skip, seen, branch)
        deep = compute() if branch is None else branch(level, compute)
        first, second, longer = parts(self.up_modules, -1 - level)
        out: Tensor = longer(second(first(torch.cat([deep, skip], dim=1), seen), seen))
        return out
