"""What every denoising network has: an embedding of the timestep, and a hook at its sites."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Compute = Callable[[], Tensor]
Branch = Callable[[int, Compute], Tensor]
"""(site index, how to compute its value) -> the value to go on with; called in order."""

StepBranch = Callable[[int, int, Compute], Tensor]
"""(step, site index, how to compute its value) -> the value that the network goes on with."""


Network = Callable[[Tensor, Tensor, Tensor | None, Branch | None], Tensor]
"""A denoising call: (sample, timestep, cond, branch) -> what the sampler steps by."""


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


def at_step(branch: StepBranch, step: int) -> Callable[[int, Compute], Tensor]:
    """A step's own sites, as a network asks for them."""
    return lambda site, compute: branch(step, site, compute)
