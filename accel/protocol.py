"""What an acceleration needs from a policy; `policies.DiffusionPolicy` satisfies it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Compute = Callable[[], Tensor]
StepBranch = Callable[[int, int, Compute], Tensor]
Noise = torch.Generator | Sequence[torch.Generator]


class NetworkSizes(Protocol):
    """Sizes from which sites are named and FLOPs are counted."""

    n_layer: int
    n_emb: int
    n_cond_layers: int
    n_obs_steps: int
    input_dim: int
    output_dim: int
    cond_dim: int

    @property
    def encoder_only(self) -> bool: ...

    @property
    def n_memory(self) -> int: ...

    @property
    def branches(self) -> tuple[str, ...]: ...


class Accelerable(Protocol):
    """A diffusion policy whose denoising network shows its residual branches."""

    n_obs_steps: int
    n_action_steps: int
    horizon: int
    obs_dim: int
    action_dim: int
    training: bool

    @property
    def n_inference_steps(self) -> int: ...

    @property
    def n_tokens(self) -> int: ...

    @property
    def sizes(self) -> NetworkSizes: ...

    def fingerprint(self) -> str: ...

    def act(self, obs: Tensor, noise: Noise, branch: StepBranch | None = None) -> Tensor: ...
