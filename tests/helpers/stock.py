"""The policy assembled from torch's own layers and diffusers' schedulers: the oracle of ours.

It carries the attribute and parameter names of the reference implementation's objects, which is
what `from_reference` and checkpoints rely on.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from policies import DiffusionPolicy, NetworkConfig, from_reference
from policies.data.normalizer import Normalizer

SCHEDULERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}


class Network(nn.Module):
    def __init__(self, c: NetworkConfig) -> None:
        super().__init__()
        self.horizon, self.time_as_cond, self.obs_as_cond = c.horizon, c.time_as_cond, c.obs_as_cond
        self.encoder_only = c.encoder_only
        self._dummy_variable = nn.Parameter(torch.empty(0))
        kwargs: dict[str, Any] = {
            "d_model": c.n_emb,
            "nhead": c.n_head,
            "dim_feedforward": 4 * c.n_emb,
            "dropout": c.p_drop_attn,
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
        }

        def encoder(depth: int) -> nn.Module:
            layer = nn.TransformerEncoderLayer(**kwargs)
            return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

        self.input_emb = nn.Linear(c.input_dim, c.n_emb)
        self.pos_emb = nn.Parameter(torch.randn(1, c.n_tokens, c.n_emb) * 0.3)
        self.drop = nn.Dropout(c.p_drop_emb)
        if c.obs_as_cond:
            self.cond_obs_emb = nn.Linear(c.cond_dim, c.n_emb)
        if c.encoder_only:
            self.encoder = encoder(c.n_layer)
        else:
            self.cond_pos_emb = nn.Parameter(torch.randn(1, c.n_memory, c.n_emb) * 0.3)
            mlp = nn.Sequential(
                nn.Linear(c.n_emb, 4 * c.n_emb), nn.Mish(), nn.Linear(4 * c.n_emb, c.n_emb)
            )
            self.encoder = encoder(c.n_cond_layers) if c.n_cond_layers else mlp
            self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**kwargs), c.n_layer)
        t = torch.arange(c.n_tokens)
        mask = memory_mask = None
        if c.causal_attn:
            mask = torch.full((c.n_tokens, c.n_tokens), float("-inf")).triu(1)
            if c.obs_as_cond:
                hidden = t[:, None] < torch.arange(c.n_memory)[None] - 1
                memory_mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
        self.register_buffer("mask", mask)
        self.register_buffer("memory_mask", memory_mask)
        self.ln_f, self.head = nn.LayerNorm(c.n_emb), nn.Linear(c.n_emb, c.output_dim)

    def forward(self, sample: Tensor, timestep: Tensor, cond: Tensor | None = None) -> Tensor:
        half = self.head.in_features // 2
        frequency = 10000.0 ** (-torch.arange(half) / (half - 1))
        angle = timestep[:, None] * frequency
        time = torch.cat([angle.sin(), angle.cos()], -1)[:, None]
        x = self.input_emb(sample)
        if self.encoder_only:
            x = torch.cat([time, x], 1)
            x = self.encoder(x + self.pos_emb[:, : x.shape[1]], mask=self.mask)[:, 1:]
        else:
            tokens = torch.cat([time, self.cond_obs_emb(cond)], 1) if self.obs_as_cond else time
            memory = self.encoder(tokens + self.cond_pos_emb)
            x = x + self.pos_emb[:, : x.shape[1]]
            x = self.decoder(x, memory, tgt_mask=self.mask, memory_mask=self.memory_mask)
        return self.head(self.ln_f(x))


class DiffusionTransformerLowdimPolicy(nn.Module):
    """A live policy, duck-typed like the reference implementation's."""

    def __init__(
        self,
        network: NetworkConfig,
        obs_dim: int,
        action_dim: int,
        n_action_steps: int,
        pred_action_steps_only: bool = False,
        sampler: str = "ddpm",
        scheduler: dict[str, Any] | None = None,
        steps: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.model = Network(network)
        self.normalizer = Normalizer({"obs": obs_dim, "action": action_dim})
        generator = torch.Generator().manual_seed(1)
        for field, dim in {"obs": obs_dim, "action": action_dim}.items():
            self.normalizer.fit(field, torch.randn((50, dim), generator=generator) * 3 + 1)
        self._dummy_variable = nn.Parameter(torch.empty(0))
        self.horizon, self.n_obs_steps = network.horizon, network.n_obs_steps
        self.obs_dim, self.action_dim = obs_dim, action_dim
        self.n_action_steps, self.pred_action_steps_only = n_action_steps, pred_action_steps_only
        settings = {"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2"}
        self.noise_scheduler = SCHEDULERS[sampler](**{**settings, **(scheduler or {})})
        self.num_inference_steps, self.kwargs = steps, kwargs
        self.eval()

    @torch.no_grad()
    def trajectory(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """The reference's conditional_sample, normalised."""
        nobs = self.normalizer.normalize("obs", obs)
        length = self.n_action_steps if self.pred_action_steps_only else self.horizon
        inpaint = not self.model.obs_as_cond
        width = self.action_dim + (self.obs_dim if inpaint else 0)
        x = torch.randn((len(obs), length, width), generator=generator)
        self.noise_scheduler.set_timesteps(self.num_inference_steps)
        for t in self.noise_scheduler.timesteps:
            if inpaint:
                x[:, : self.n_obs_steps, self.action_dim :] = nobs
            out = self.model(x, t.expand(len(x)), None if inpaint else nobs)
            x = self.noise_scheduler.step(out, t, x, generator=generator, **self.kwargs).prev_sample
        if inpaint:
            x[:, : self.n_obs_steps, self.action_dim :] = nobs
        return x


OBS, ACT, HORIZON, TO = 5, 3, 8, 2

VARIANTS: dict[str, dict[str, Any]] = {
    "causal": {},
    "not causal": {"causal_attn": False},
    "condition encoder": {"n_cond_layers": 2},
    "in-painting": {"obs_as_cond": False},
    "in-painting, not causal": {"obs_as_cond": False, "causal_attn": False},
    "encoder-only": {"obs_as_cond": False, "time_as_cond": False},
    "encoder-only, not causal": {"obs_as_cond": False, "time_as_cond": False, "causal_attn": False},
    "action steps only": {"causal_attn": False, "pred_action_steps_only": True},
}


def live_policy(variant: str = "causal", seed: int = 0, **overrides: Any) -> Any:
    """A small random policy of the named variant."""
    torch.manual_seed(seed)
    choice = {"causal_attn": True, "obs_as_cond": True, **VARIANTS[variant]}
    only = choice.pop("pred_action_steps_only", False)
    conditioned = choice["obs_as_cond"]
    width = ACT if conditioned else ACT + OBS
    network = NetworkConfig(
        input_dim=width,
        output_dim=width,
        horizon=HORIZON,
        n_obs_steps=TO,
        cond_dim=OBS if conditioned else 0,
        n_layer=2,
        n_head=2,
        n_emb=16,
        **choice,
    )
    return DiffusionTransformerLowdimPolicy(network, OBS, ACT, 4, only, **overrides)


def small_policy(variant: str = "causal", **overrides: Any) -> DiffusionPolicy:
    """Ours, with the weights of `live_policy`."""
    return from_reference(live_policy(variant, **overrides))
