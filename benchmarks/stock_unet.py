"""A UNet policy as the reference implementation runs it: its modules under diffusers' scheduler.

Our `Unet` in torch is the reference implementation's ConditionalUnet1D, module by module, so what
is left to do without is everything that hoists, packs or fuses.
"""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from policies import DiffusionPolicy


class StockUnet:
    """Samples in a Python loop, one call of the network for each timestep of the scheduler.

    Args:
        policy: a UNet's, whose modules it uses.
        schedulers: {kind: diffusers' class} of "ddpm" and "ddim".
    """

    def __init__(self, policy: DiffusionPolicy, schedulers: dict[str, Any]) -> None:
        sampler = policy.config.sampler
        make = schedulers[sampler.kind]
        known = inspect.signature(make.__init__).parameters
        self.noise_scheduler = make(**{k: v for k, v in asdict(sampler).items() if k in known})
        self.model, self.normalizer, self.sizes = policy.model, policy.normalizer, policy.sizes
        self.num_inference_steps = sampler.steps
        self.n_obs_steps, self.n_action_steps = policy.n_obs_steps, policy.n_action_steps
        self.first_action, self.action_dim = policy.config.first_action, policy.action_dim
        self.length = policy.config.length

    @torch.no_grad()
    def trajectory(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """(B, n_obs_steps, obs_dim) -> (B, horizon, input_dim), normalised."""
        seen = self.normalizer.normalize("obs", obs)
        known = self.sizes.obs_as == "in-painting"
        x = torch.randn((len(obs), self.length, self.sizes.input_dim), generator=generator)
        self.noise_scheduler.set_timesteps(self.num_inference_steps)
        for t in self.noise_scheduler.timesteps:
            if known:
                x[:, : self.n_obs_steps, self.action_dim :] = seen
            out = self.model(x, t.expand(len(x)), None if known else seen)
            x = self.noise_scheduler.step(out, t, x, generator=generator).prev_sample
        return x
