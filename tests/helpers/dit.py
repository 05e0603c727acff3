"""Small DiT policies with random weights, modulations among them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policies import DiffusionPolicy, DitConfig, PolicyConfig, SamplerConfig

TO, OBS, ACTION, HORIZON = 2, 5, 3, 8
SMALL: dict[str, Any] = {"n_layer": 3, "n_head": 2, "n_emb": 16, "timestep_embed_dim": 8}
DIFFUSION = SamplerConfig(steps=10, num_train_timesteps=10, prediction_type="sample")


def flow(kind: str = "euler", steps: int = 10, **more: Any) -> SamplerConfig:
    return SamplerConfig(kind, steps, prediction_type="velocity", **more)


def dit_policy(
    sampler: SamplerConfig = DIFFUSION, seed: int = 0, scale: float = 2.0, **sizes: Any
) -> DiffusionPolicy:
    """Weights are torch's, `scale` times as large, so that what blocks add counts."""
    network = DitConfig(ACTION, HORIZON, TO, OBS, **{**SMALL, **sizes})
    torch.manual_seed(seed)
    policy = DiffusionPolicy(PolicyConfig(network, OBS, ACTION, 4, sampler=sampler))
    with torch.no_grad():
        for parameter in policy.model.transformer_blocks.parameters():
            parameter.mul_(scale)
        if policy.model.pos_embedding is not None:
            policy.model.pos_embedding.normal_()
    return policy.eval()


def noise(n: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


def query(n: int = 2) -> tuple[Tensor, list[torch.Generator]]:
    obs = torch.randn((n, TO, OBS), generator=torch.Generator().manual_seed(3))
    return obs, noise(n)
