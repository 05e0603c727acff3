"""A UNet policy by torch functions on its weights, and by diffusers: the oracle of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dill
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler
from omegaconf import OmegaConf
from torch import Tensor, nn

from policies import Unet, UnetConfig
from policies.data.normalizer import Normalizer

OBS, ACT, TO = 5, 3, 2
SCHEDULERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}
Weights = Mapping[str, Tensor]

VARIANTS: dict[str, dict[str, Any]] = {
    "global": {},
    "global, scaled": {"cond_predict_scale": True, "kernel_size": 5},
    "local": {"obs_as": "local"},
    "local, scaled, next action": {
        "obs_as": "local",
        "cond_predict_scale": True,
        "oa_step_convention": False,
    },
    "in-painting": {"obs_as": "in-painting"},
    "in-painting, next action": {"obs_as": "in-painting", "oa_step_convention": False},
    "action steps only": {"pred_action_steps_only": True},
    "two levels, odd below": {"down_dims": [16, 24], "horizon": 10},
    "four levels, one step below": {"down_dims": [8, 16, 16, 24], "n_groups": 4},
}


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(torch.log1p(torch.exp(x)))


def convolved(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    weight = w[f"{name}.block.0.weight"]
    x = F.conv1d(x, weight, w[f"{name}.block.0.bias"], padding=weight.shape[2] // 2)
    grouped = x.reshape(len(x), groups, -1)
    deviation = (grouped.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    x = ((grouped - grouped.mean(2, keepdim=True)) / deviation).reshape(x.shape)
    return mish(x * w[f"{name}.block.1.weight"][:, None] + w[f"{name}.block.1.bias"][:, None])


def block(w: Weights, name: str, x: Tensor, seen: Tensor, groups: int) -> Tensor:
    said = mish(seen) @ w[f"{name}.cond_encoder.1.weight"].T + w[f"{name}.cond_encoder.1.bias"]
    out = convolved(w, f"{name}.blocks.0", x, groups)
    n = out.shape[1]
    if said.shape[1] == 2 * n:
        out = said[:, :n, None] * out + said[:, n:, None]
    else:
        out = out + said[:, :, None]
    out = convolved(w, f"{name}.blocks.1", out, groups)
    if f"{name}.residual_conv.weight" in w:
        shortcut = w[f"{name}.residual_conv.weight"][:, :, 0]
        x = torch.einsum("oi,bit->bot", shortcut, x) + w[f"{name}.residual_conv.bias"][:, None]
    return out + x


def network(
    w: Weights,
    sample: Tensor,
    t: Tensor,
    groups: int = 8,
    local: Tensor | None = None,
    everywhere: Tensor | None = None,
    stale: tuple[int, Tensor] | None = None,
) -> tuple[Tensor, dict[int, Tensor]]:
    """One call from its weights alone.

    Args:
        w: weights by name; groups: of the norms but the last.
        sample: (B, T, D); t: (B,); local: (B, T, obs_dim); everywhere: (B, n_obs_steps * obs_dim).
        stale: (level, feature) that enters the way up there instead of the computed one.

    Returns:
        (B, T, D), and what entered the way up at each level that has a skip.
    """
    half = w["diffusion_step_encoder.1.weight"].shape[1] // 2
    angle = t[:, None] / 10000.0 ** (torch.arange(half) / (half - 1))
    seen = torch.cat([angle.sin(), angle.cos()], 1)
    for layer in (1, 3):
        name = f"diffusion_step_encoder.{layer}"
        seen = (mish(seen) if layer == 3 else seen) @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    if everywhere is not None:
        seen = torch.cat([seen, everywhere], 1)
    levels = len({name.split(".")[1] for name in w if name.startswith("down_modules")})
    x, skips = sample.transpose(1, 2), []
    for level in range(levels):
        x = block(w, f"down_modules.{level}.0", x, seen, groups)
        if level == 0 and local is not None:
            x = x + block(w, "local_cond_encoder.0", local.transpose(1, 2), seen, groups)
        x = block(w, f"down_modules.{level}.1", x, seen, groups)
        skips.append(x)
        if level < levels - 1:
            name = f"down_modules.{level}.2.conv"
            x = F.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)
    for middle in (0, 1):
        x = block(w, f"mid_modules.{middle}", x, seen, groups)
    deep = {}
    for i, level in enumerate(range(levels - 1, 0, -1)):
        if stale is not None and stale[0] == level:
            x = stale[1]
        deep[level] = x
        x = torch.cat([x, skips[level]], 1)
        for j in (0, 1):
            x = block(w, f"up_modules.{i}.{j}", x, seen, groups)
        name = f"up_modules.{i}.2.conv"
        x = F.conv_transpose1d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)
    x = convolved(w, "final_conv.0", x, 8)
    x = F.conv1d(x, w["final_conv.1.weight"], w["final_conv.1.bias"])
    return x.transpose(1, 2), deep


class DiffusionUnetLowdimPolicy(nn.Module):
    """A live policy, duck-typed like the reference implementation's; acts through `network`."""

    def __init__(
        self,
        config: UnetConfig,
        n_action_steps: int = 4,
        pred_action_steps_only: bool = False,
        sampler: str = "ddpm",
        scheduler: dict[str, Any] | None = None,
        dims: tuple[int, int] = (OBS, ACT),
        steps: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = Unet(config)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.model.parameters():  # norms and biases too
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += noise * 0.5 / math.sqrt(max(parameter[0].numel(), 4))
        self.obs_dim, self.action_dim = dims
        self.normalizer = Normalizer({"obs": self.obs_dim, "action": self.action_dim})
        for field, dim in {"obs": self.obs_dim, "action": self.action_dim}.items():
            self.normalizer.fit(field, torch.randn((50, dim), generator=generator) * 3 + 1)
        self.mask_generator = nn.Module()
        self._dummy_variable = nn.Parameter(torch.empty(0))
        self.mask_generator._dummy_variable = nn.Parameter(torch.empty(0))
        self.horizon, self.n_obs_steps = config.horizon, config.n_obs_steps
        self.obs_as_local_cond = config.obs_as == "local"
        self.obs_as_global_cond = config.obs_as == "global"
        self.oa_step_convention = config.oa_step_convention
        self.n_action_steps, self.pred_action_steps_only = n_action_steps, pred_action_steps_only
        settings = {"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2"}
        self.noise_scheduler = SCHEDULERS[sampler](**{**settings, **(scheduler or {})})
        self.num_inference_steps, self.kwargs = steps, {}
        self.eval()

    @torch.no_grad()
    def trajectory(
        self, obs: Tensor, generator: torch.Generator, depths: list[int] | None = None
    ) -> Tensor:
        """The denoised trajectory, normalised.

        `depths` are, for each step, the level whose deep feature is the one of the last step that
        computed it; 0 computes everything.
        """
        w, nobs = dict(self.model.state_dict()), self.normalizer.normalize("obs", obs)
        length = self.n_action_steps if self.pred_action_steps_only else self.horizon
        inpaint = not (self.obs_as_local_cond or self.obs_as_global_cond)
        local = torch.zeros(len(obs), length, self.obs_dim) if self.obs_as_local_cond else None
        if local is not None:
            local[:, : self.n_obs_steps] = nobs
        everywhere = nobs.reshape(len(obs), -1) if self.obs_as_global_cond else None
        width = self.action_dim + (self.obs_dim if inpaint else 0)
        x = torch.randn((len(obs), length, width), generator=generator)
        self.noise_scheduler.set_timesteps(self.num_inference_steps)
        stored: dict[int, Tensor] = {}
        for step, t in enumerate(self.noise_scheduler.timesteps):
            if inpaint:
                x[:, : self.n_obs_steps, self.action_dim :] = nobs
            depth = depths[step] if depths else 0
            stale = (depth, stored[depth]) if depth else None
            groups, times = self.model.config.n_groups, t.expand(len(x))
            out, deep = network(w, x, times, groups, local, everywhere, stale)
            stored |= {level: value for level, value in deep.items() if level < depth or not depth}
            x = self.noise_scheduler.step(out, t, x, generator=generator).prev_sample
        if inpaint:
            x[:, : self.n_obs_steps, self.action_dim :] = nobs
        return x


def live_unet(
    variant: str = "global", down_dims: list[int] | None = None, **overrides: Any
) -> DiffusionUnetLowdimPolicy:
    """A small random policy of the named variant."""
    settings = {"down_dims": [16, 24, 32], "horizon": 8, "oa_step_convention": True}
    settings |= VARIANTS[variant] | ({"down_dims": down_dims} if down_dims else {})
    only = settings.pop("pred_action_steps_only", False)
    return DiffusionUnetLowdimPolicy(unet_config(**settings), 4, only, **overrides)


def unet_config(dims: tuple[int, int] = (OBS, ACT), **settings: Any) -> UnetConfig:
    obs_dim, action_dim = dims
    inpaint = settings.get("obs_as") == "in-painting"
    return UnetConfig(
        input_dim=action_dim + (obs_dim if inpaint else 0),
        cond_dim=0 if inpaint else obs_dim,
        n_obs_steps=TO,
        **{"diffusion_step_embed_dim": 16, **settings},
    )


def cfg_of(live: DiffusionUnetLowdimPolicy, task: str = "pusht_lowdim") -> dict[str, Any]:
    """The configuration of a training, with interpolations where the published one has them."""
    net, package = live.model.config, "diffusion_policy"
    switches = ("obs_as_local_cond", "obs_as_global_cond", "pred_action_steps_only")
    sizes = ("down_dims", "kernel_size", "n_groups", "cond_predict_scale")
    passed = ("horizon", "obs_dim", "action_dim", "n_obs_steps")
    scheduler = live.noise_scheduler
    known = ("num_train_timesteps", "beta_schedule", "clip_sample", "prediction_type")
    return {
        "name": "train_diffusion_unet_lowdim",
        "task_name": "${task.name}",
        "obs_dim": "${task.obs_dim}",
        "action_dim": "${task.action_dim}",
        "horizon": net.horizon,
        "n_obs_steps": net.n_obs_steps,
        "n_action_steps": live.n_action_steps,
        "n_latency_steps": 0,
        "past_action_visible": False,
        **{name: getattr(live, name) for name in switches},
        "policy": {
            "_target_": f"{package}.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy",
            "model": {
                "_target_": f"{package}.model.diffusion.conditional_unet1d.ConditionalUnet1D",
                "input_dim": "${eval: ${task.action_dim} if ${obs_as_local_cond} or "
                "${obs_as_global_cond} else ${task.obs_dim} + ${task.action_dim}}",
                "local_cond_dim": "${eval: ${task.obs_dim} if ${obs_as_local_cond} else None}",
                "global_cond_dim": "${eval: ${task.obs_dim}*${n_obs_steps} "
                "if ${obs_as_global_cond} else None}",
                "diffusion_step_embed_dim": net.diffusion_step_embed_dim,
                **{name: getattr(net, name) for name in sizes},
            },
            "noise_scheduler": {
                "_target_": f"diffusers.schedulers.scheduling_ddpm.{type(scheduler).__name__}",
                **{name: scheduler.config[name] for name in known},
            },
            **{name: f"${{{name}}}" for name in (*passed, *switches)},
            "n_action_steps": "${eval:'${n_action_steps}+${n_latency_steps}'}",
            "num_inference_steps": live.num_inference_steps,
            "oa_step_convention": live.oa_step_convention,
        },
        "training": {"use_ema": True},
        "task": {"name": task, "obs_dim": live.obs_dim, "action_dim": live.action_dim},
    }


def write_ckpt(
    path: Path, live: DiffusionUnetLowdimPolicy, cfg: dict[str, Any] | None = None
) -> Path:
    """As the reference implementation writes it; what is not the EMA is wrong."""
    ema = live.state_dict()
    payload = {
        "cfg": OmegaConf.create(cfg or cfg_of(live)),
        "state_dicts": {"model": {k: v + 1 for k, v in ema.items()}, "ema_model": ema},
        "pickles": {"epoch": dill.dumps(3), "global_step": dill.dumps(7)},
    }
    torch.save(payload, path, pickle_module=dill)
    return path
