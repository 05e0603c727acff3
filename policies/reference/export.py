"""From our policy to a checkpoint that real-stanford/diffusion_policy loads."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from ..families import family_named
from ..family import Exporter
from ..policy import DiffusionPolicy
from ..sampling.table import NEW, SamplerConfig
from .live import STEP_SETTINGS

PACKAGE = "diffusion_policy"
DUMMIES = ("_dummy_variable", "mask_generator._dummy_variable")
SCHEDULER_TARGETS = {
    "ddpm": "diffusers.schedulers.scheduling_ddpm.DDPMScheduler",
    "ddim": "diffusers.schedulers.scheduling_ddim.DDIMScheduler",
}
ALWAYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "clip_sample")
OF_ONE_KIND = {"variance_type": "ddpm", "set_alpha_to_one": "ddim"}


def export_reference(
    policy: DiffusionPolicy, path: str | Path, env_runner: Mapping[str, Any] | None = None
) -> None:
    """Write a .ckpt in the layout of the reference implementation's workspaces.

    Both networks of it ("model", "ema_model") are this policy's weights.

    Args:
        policy: what is written.
        path: of the file.
        env_runner: what its evaluation needs to know of the task, as `envs.reference_runner` says
            it; None: the file names no environment.
    """
    path = Path(path)
    layout = _exporter(policy)
    state: dict[str, Tensor] = {name: torch.empty(0) for name in (*DUMMIES, *layout.dummies)}
    state |= {k: v.detach().cpu().clone() for k, v in policy.state_dict().items()}
    payload = {
        "cfg": OmegaConf.create(reference_cfg(policy, env_runner)),
        "state_dicts": {"model": state, "ema_model": state},
        "pickles": {
            name: pickle.dumps(value, protocol=2)
            for name, value in {"_output_dir": "", "global_step": 0, "epoch": 0}.items()
        },
    }
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(payload, temporary, pickle_protocol=2)
    os.replace(temporary, path)


def _exporter(policy: DiffusionPolicy) -> Exporter:
    exporter = family_named(policy.sizes.family).exporter
    if exporter is None:
        raise ValueError(
            f"the reference implementation has no policies of family {policy.sizes.family}"
        )
    if policy.config.encoder is not None:
        raise ValueError(
            "only policies that see one array of numbers are written as checkpoints of the "
            f"reference implementation, this one sees {', '.join(policy.obs_spec)}"
        )
    if policy.config.normalization:
        field, mode = next(iter(policy.config.normalization.items()))
        raise ValueError(
            f"the reference implementation's normaliser is an affine map, normalization.{field} is "
            f"{mode}: export it with --to lerobot"
        )
    return exporter


def reference_cfg(
    policy: DiffusionPolicy, env_runner: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The policy's settings in the reference's layout, as plain containers."""
    config, net = policy.config, policy.sizes
    layout = _exporter(policy)
    kind, name = layout.kind, layout.kind.capitalize()
    flags, own, model = layout.sizes(net)
    shared = {
        "horizon": net.horizon,
        "obs_dim": config.obs_dim,
        "action_dim": config.action_dim,
        "n_action_steps": config.n_action_steps,
        "n_obs_steps": net.n_obs_steps,
        **flags,
        "pred_action_steps_only": config.pred_action_steps_only,
    }
    extra = {k: v for k, v in asdict(config.sampler).items() if k in STEP_SETTINGS and v}
    return {
        "name": f"train_diffusion_{kind}_lowdim",
        "_target_": f"{PACKAGE}.workspace.train_diffusion_{kind}_lowdim_workspace."
        f"TrainDiffusion{name}LowdimWorkspace",
        **shared,
        "task_name": config.task.name,
        "exp_name": "default",
        "n_latency_steps": 0,
        "past_action_visible": False,
        "keypoint_visible_rate": 1.0,
        "policy": {
            "_target_": f"{PACKAGE}.policy.diffusion_{kind}_lowdim_policy."
            f"Diffusion{name}LowdimPolicy",
            "model": {**model, "_target_": f"{PACKAGE}.model.diffusion.{layout.target}"},
            "noise_scheduler": _scheduler(config.sampler),
            "num_inference_steps": config.sampler.steps,
            **shared,
            **own,
            **extra,
        },
        "ema": {
            "_target_": f"{PACKAGE}.model.diffusion.ema_model.EMAModel",
            **{"update_after_step": 0, "inv_gamma": 1.0, "power": 0.75},
            **{"min_value": 0.0, "max_value": 0.9999},
        },
        "optimizer": layout.optimizer,
        "training": {"device": "cuda:0", "seed": 42, "use_ema": True, "resume": True},
        "task": _task(policy, env_runner),
    }


def _scheduler(sampler: SamplerConfig) -> dict[str, Any]:
    """Older releases of diffusers do not know the newer settings: only what differs is written."""
    if sampler.kind not in SCHEDULER_TARGETS:
        raise ValueError(
            f"the reference implementation's policies run {', '.join(SCHEDULER_TARGETS)}, not "
            f"{sampler.kind}: export the policy with one of them, and choose at run time"
        )
    if ours := [name for name in NEW if name in sampler.settings()]:
        raise ValueError(
            f"the reference implementation has no sampler.{ours[0]}={getattr(sampler, ours[0])}: "
            "export the policy with a sampler of its library, and choose at run time"
        )
    default, values = SamplerConfig().settings(), sampler.settings()
    kept = {
        name: value
        for name, value in values.items()
        if name in (*ALWAYS, "prediction_type", *OF_ONE_KIND) or value != default[name]
        if OF_ONE_KIND.get(name, sampler.kind) == sampler.kind
        if name not in ("kind", "steps", *STEP_SETTINGS)
    }
    return {"_target_": SCHEDULER_TARGETS[sampler.kind], **kept}


def _task(policy: DiffusionPolicy, env_runner: Mapping[str, Any] | None) -> dict[str, Any]:
    info = policy.config.task
    said = {k: v for k, v in asdict(info).items() if v is not None and k != "name"}
    sizes = {"obs_dim": policy.obs_dim, "action_dim": policy.action_dim, "keypoint_dim": 3}
    task = {"name": info.name, **sizes, **said}
    if env_runner is None:
        return task
    runner = {
        "n_train": 6,
        "n_train_vis": 2,
        "n_test": 50,
        "n_test_vis": 4,
        "test_start_seed": 100000,
        "n_obs_steps": policy.n_obs_steps,
        "n_action_steps": policy.n_action_steps,
        "past_action": False,
        "n_envs": None,
        **({} if info.abs_action is None else {"abs_action": info.abs_action}),
    }
    target = f"{PACKAGE}.env_runner.{env_runner['_target_']}"
    return {**task, "env_runner": {**runner, **env_runner, "_target_": target}}
