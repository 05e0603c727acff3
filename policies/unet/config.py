"""Sizes of a UNet policy's network."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import ClassVar

from ..family import MOST_SIZES, Sizes
from ..typed import check_types

OBS_AS = ("global", "local", "in-painting")
FINAL_GROUPS = 8  # of the last convolution's norm, whatever n_groups is


@dataclass
class UnetConfig(Sizes):
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
        check_types(self, "network", MOST_SIZES)
        self._at_least_one("input_dim", "horizon", "n_obs_steps", "n_groups")
        if self.obs_as not in OBS_AS:
            raise ValueError(
                f"network.obs_as must be one of {', '.join(OBS_AS)}, got {self.obs_as!r}"
            )
        if self.obs_as_cond != (self.cond_dim > 0):
            raise ValueError(
                "network.cond_dim must be positive exactly if observations are a condition "
                f"(obs_as={self.obs_as}), got {self.cond_dim}"
            )
        divisors = [math.lcm(self.n_groups, FINAL_GROUPS), *[self.n_groups] * len(self.down_dims)]
        pairs = list(zip(self.down_dims, divisors, strict=False))
        if len(pairs) < 2 or any(dim < 1 or dim % divisor for dim, divisor in pairs):
            raise ValueError(
                "network.down_dims must name two levels or more, multiples of n_groups = "
                f"{self.n_groups}, the first one also of {FINAL_GROUPS}, got {self.down_dims}"
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
    def least_weights(self) -> int:
        """A convolution from each level to the next, and what embeds time."""
        widths = [self.input_dim, *self.down_dims]
        passed = sum(a * b for a, b in itertools.pairwise(widths))
        return self.kernel_size * passed + 8 * self.diffusion_step_embed_dim**2

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
