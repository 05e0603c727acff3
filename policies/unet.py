"""The one-dimensional UNet of Chi et al. 2023 (Diffusion Policy), for low-dimensional observations.

Parameter names and shapes are those of the reference implementation, so weights go both ways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from .network import Branch, TimeEmbedding

OBS_AS = ("global", "local", "in-painting")
FINAL_GROUPS = 8  # of the last convolution's norm, whatever n_groups is


@dataclass
class UnetConfig:
    """Sizes of a `Unet`, where there are such under the reference implementation's names.

    obs_as: global joins the observations to the embedding of time, which every block sees; local
        adds features of them to the trajectory's, step by step; in-painting makes them a part of
        the trajectory.
    cond_dim: numbers of one observation; 0 with in-painting.
    down_dims: channels of each level, which is half as long as the one before it.
    cond_predict_scale: what blocks see scales their features as well as shifting them (FiLM).
    oa_step_convention: the first executed action belongs to the newest observation; false: it is
        the one after that.
    """

    family: ClassVar[str] = "unet"
    encoder_only: ClassVar[bool] = False
    causal_attn: ClassVar[bool] = False

    input_dim: int
    horizon: int
    n_obs_steps: int
    obs_as: str = "global"
    cond_dim: int = 0
    down_dims: list[int] = field(default_factory=lambda: [256, 512, 1024])
    diffusion_step_embed_dim: int = 256
    kernel_size: int = 3
    n_groups: int = 8
    cond_predict_scale: bool = False
    oa_step_convention: bool = False

    def __post_init__(self) -> None:
        for name in ("input_dim", "horizon", "n_obs_steps", "n_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name} must be at least 1, got {getattr(self, name)}")
        if self.obs_as not in OBS_AS:
            raise ValueError(
                f"network.obs_as must be one of {', '.join(OBS_AS)}, got {self.obs_as!r}"
            )
        if self.obs_as_cond != (self.cond_dim > 0):
            raise ValueError(
                "network.cond_dim must be positive exactly if observations are a condition "
                f"(obs_as={self.obs_as}), got {self.cond_dim}"
            )
        if len(self.down_dims) < 2 or any(dim < 1 or dim % self.n_groups for dim in self.down_dims):
            raise ValueError(
                "network.down_dims must name at least two levels, all multiples of "
                f"n_groups = {self.n_groups}, got {self.down_dims}"
            )
        if self.down_dims[0] % FINAL_GROUPS:
            raise ValueError(
                f"network.down_dims must begin with a multiple of {FINAL_GROUPS}, "
                f"got {self.down_dims}"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(
                "network.kernel_size must be odd, or blocks change the length, "
                f"got {self.kernel_size}"
            )
        if self.diffusion_step_embed_dim < 4 or self.diffusion_step_embed_dim % 2:
            raise ValueError(
                "network.diffusion_step_embed_dim must be even and at least 4, "
                f"got {self.diffusion_step_embed_dim}"
            )

    @property
    def obs_as_cond(self) -> bool:
        return self.obs_as != "in-painting"

    @property
    def any_length(self) -> bool:
        return self.obs_as == "global"

    @property
    def output_dim(self) -> int:
        return self.input_dim

    @property
    def seen_dim(self) -> int:
        """Width of what every block sees: time, and observations that are global."""
        observed = self.n_obs_steps * self.cond_dim if self.obs_as == "global" else 0
        return self.diffusion_step_embed_dim + observed

    @property
    def first_action(self) -> int:
        return self.n_obs_steps - (1 if self.oa_step_convention else 0)

    @property
    def length_multiple(self) -> int:
        """Every level but the last halves the length, and the way up doubles it."""
        return 1 << (len(self.down_dims) - 1)

    def __str__(self) -> str:
        return f"UNet of widths {', '.join(map(str, self.down_dims))}"


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


class ResidualBlock(nn.Module):
    """Two convolutions, what time and observations say in between, and a shortcut."""

    def __init__(self, config: UnetConfig, n_in: int, n_out: int) -> None:
        super().__init__()
        self.scales = config.cond_predict_scale
        self.blocks = nn.ModuleList(
            ConvBlock(n, n_out, config.kernel_size, config.n_groups) for n in (n_in, n_out)
        )
        self.cond_encoder = nn.Sequential(
            nn.Mish(), nn.Linear(config.seen_dim, n_out * (2 if self.scales else 1))
        )
        self.residual_conv = nn.Identity() if n_in == n_out else nn.Conv1d(n_in, n_out, 1)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(B, n_in, length), (B, seen_dim) -> (B, n_out, length)."""
        out, said = self.blocks[0](x), self.cond_encoder(seen)[..., None]
        if self.scales:
            scale, said = said.chunk(2, dim=1)
            out = scale * out
        out = self.blocks[1](out + said) + self.residual_conv(x)
        return out


class Resample(nn.Module):
    """Half or twice the length."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


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
        x, seen, added = sample.mT, self.diffusion_step_encoder(timestep), None
        if self.config.obs_as == "global":
            assert cond is not None
            seen = torch.cat([seen, cond.flatten(1)], dim=-1)
        if self.config.obs_as == "local":
            assert cond is not None
            padding = (0, 0, 0, sample.shape[1] - cond.shape[1])  # nothing is known of the future
            added = self.local_cond_encoder[0](nn.functional.pad(cond, padding).mT, seen)
        x = self._down(0, x, seen, added)
        out: Tensor = self.final_conv(self._below(0, x, seen, branch))
        return out.mT

    def _down(self, level: int, x: Tensor, seen: Tensor, added: Tensor | None = None) -> Tensor:
        first, second, _ = self.down_modules[level]  # type: ignore[misc]
        x = first(x, seen)
        out: Tensor = second(x if added is None else x + added, seen)
        return out

    def _below(self, level: int, x: Tensor, seen: Tensor, branch: Branch | None) -> Tensor:
        """A level's features -> what comes back up to it from the levels below."""
        x = self.down_modules[level][2](x)  # type: ignore[index]
        if level == len(self.down_modules) - 1:
            for block in self.mid_modules:
                x = block(x, seen)
            return x
        skip = self._down(level + 1, x, seen)
        compute = partial(self._below, level + 1, skip, seen, branch)
        deep = compute() if branch is None else branch(level, compute)
        first, second, longer = self.up_modules[-1 - level]  # type: ignore[misc]
        out: Tensor = longer(second(first(torch.cat([deep, skip], dim=1), seen), seen))
        return out
