"""From the configuration or live objects of real-stanford/diffusion_policy to ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from .network import NetworkConfig
from .policy import DiffusionPolicy, PolicyConfig, TaskInfo
from .sampling import SamplerConfig

POLICY = "DiffusionTransformerLowdimPolicy"
SCHEDULERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}
STEP_SETTINGS = ("eta", "use_clipped_model_output")
# diffusers records these with every scheduler; only their neutral values are accepted
UNUSED_BY_SCHEDULER = {
    "thresholding": (False, None),
    "dynamic_thresholding_ratio": None,
    "sample_max_value": None,
    "_class_name": None,
    "_diffusers_version": None,
    "_use_default_values": None,
}


class UnsupportedPolicy(ValueError):
    """The checkpoint holds a policy that this project does not run."""


def class_name(target: object) -> str:
    return str(target).rpartition(".")[2]


def scheduler_config(
    kind: str, settings: Mapping[str, Any], steps: int | None, extra: Mapping[str, Any]
) -> SamplerConfig:
    """A diffusers scheduler's settings -> `SamplerConfig`; an unknown one is refused by name."""
    if kind not in SCHEDULERS:
        raise UnsupportedPolicy(
            f"noise_scheduler {kind} is not supported (allowed: {', '.join(SCHEDULERS)})"
        )
    known = {f.name for f in fields(SamplerConfig)} - {"kind", "steps"}
    values: dict[str, Any] = {
        "beta_schedule": "linear",
        "num_train_timesteps": 1000,
    }  # diffusers' defaults
    for name, value in settings.items():
        if name in known:
            values[name] = value
        elif name not in UNUSED_BY_SCHEDULER:
            raise UnsupportedPolicy(
                f"noise_scheduler.{name}={value!r} is not a setting this project knows"
            )
        elif (allowed := UNUSED_BY_SCHEDULER[name]) is not None and value not in allowed:
            raise UnsupportedPolicy(f"noise_scheduler.{name}={value!r} is not supported")
    for name, value in extra.items():
        if name not in STEP_SETTINGS:
            raise UnsupportedPolicy(f"policy.{name}={value!r} is not a setting this project knows")
        values[name] = value
    return SamplerConfig(
        kind=SCHEDULERS[kind], steps=steps or values["num_train_timesteps"], **values
    )


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise UnsupportedPolicy(f"{where} must be true or false, got {value!r}")
    return value


def policy_config(cfg: Mapping[str, Any]) -> PolicyConfig:
    """The `cfg` of a reference checkpoint, as plain containers -> `PolicyConfig`.

    Raises:
        UnsupportedPolicy: UNet, image and IBC policies, settings that change what is executed and
        are not run here.
        ValueError: sizes that contradict each other.
    """
    policy = dict(cfg["policy"])
    if class_name(policy.pop("_target_", "")) != POLICY:
        raise UnsupportedPolicy(
            f"{class_name(cfg['policy'].get('_target_'))} is not supported: only {POLICY} is "
            "(no UNet, image or IBC policies)"
        )
    for name, neutral in {"n_latency_steps": 0, "past_action_visible": False}.items():
        if cfg.get(name, neutral) != neutral:
            raise UnsupportedPolicy(f"{name}={cfg[name]!r} is not supported (allowed: {neutral})")
    model, scheduler = dict(policy.pop("model")), dict(policy.pop("noise_scheduler"))
    model.pop("_target_", None)
    unknown = set(model) - {f.name for f in fields(NetworkConfig)}
    if unknown:
        raise UnsupportedPolicy(
            f"policy.model has settings this project does not know: {sorted(unknown)}"
        )
    model["cond_dim"] = model.get("cond_dim", 0)
    if model.get("n_obs_steps") is None:
        model["n_obs_steps"] = model["horizon"]
    defaults = {
        "n_layer": 12,
        "n_head": 12,
        "n_emb": 768,
        "p_drop_emb": 0.1,
        "causal_attn": False,
        "obs_as_cond": False,
    }
    network = NetworkConfig(**{**defaults, **model, "obs_as_cond": model["cond_dim"] > 0})
    own = {k: policy.pop(k) for k in ("obs_dim", "action_dim", "n_action_steps")}
    horizon, n_obs_steps = policy.pop("horizon"), policy.pop("n_obs_steps")
    if (horizon, n_obs_steps) != (network.horizon, network.n_obs_steps):
        raise ValueError(
            f"horizon and n_obs_steps of policy ({horizon}, {n_obs_steps}) and network "
            f"({network.horizon}, {network.n_obs_steps}) differ"
        )
    if _flag(policy.pop("obs_as_cond", False), "policy.obs_as_cond") != network.obs_as_cond:
        raise ValueError("policy.obs_as_cond contradicts policy.model.cond_dim")
    task = cfg.get("task") or {}
    steps = policy.pop("num_inference_steps", None)
    only = _flag(policy.pop("pred_action_steps_only", False), "policy.pred_action_steps_only")
    return PolicyConfig(
        network=network,
        **own,
        pred_action_steps_only=only,
        sampler=scheduler_config(
            class_name(scheduler.pop("_target_", "")), scheduler, steps, policy
        ),
        task=TaskInfo(
            str(task.get("name", "")), task.get("abs_action"), task.get("robot_noise_ratio")
        ),
    )


def own_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the empty parameter of every reference module; the rest has the same name here."""
    return {k: v for k, v in state.items() if not k.endswith("_dummy_variable")}


def from_reference(live_policy: Any) -> DiffusionPolicy:
    """Wrap a live DiffusionTransformerLowdimPolicy, duck-typed; weights are shared."""
    model = live_policy.model
    if not hasattr(model, "pos_emb"):
        raise UnsupportedPolicy(f"{type(live_policy).__name__} is not supported: only {POLICY} is")
    observed = getattr(model, "cond_obs_emb", None)
    encoder_only = getattr(model, "cond_pos_emb", None) is None
    layers = (model.encoder if encoder_only else model.decoder).layers
    network = NetworkConfig(
        input_dim=model.input_emb.in_features,
        output_dim=model.head.out_features,
        horizon=live_policy.horizon,
        n_obs_steps=live_policy.n_obs_steps,
        cond_dim=observed.in_features if observed is not None else 0,
        n_layer=len(layers),
        n_head=layers[0].self_attn.num_heads,
        n_emb=model.head.in_features,
        p_drop_emb=model.drop.p,
        p_drop_attn=layers[0].self_attn.dropout,
        causal_attn=model.mask is not None,
        time_as_cond=not encoder_only,
        obs_as_cond=observed is not None,
        n_cond_layers=0 if encoder_only else len(getattr(model.encoder, "layers", ())),
    )
    scheduler = live_policy.noise_scheduler
    config = PolicyConfig(
        network=network,
        obs_dim=live_policy.obs_dim,
        action_dim=live_policy.action_dim,
        n_action_steps=live_policy.n_action_steps,
        pred_action_steps_only=live_policy.pred_action_steps_only,
        sampler=scheduler_config(
            type(scheduler).__name__,
            scheduler.config,
            live_policy.num_inference_steps,
            live_policy.kwargs,
        ),
    )
    policy = DiffusionPolicy(config)
    with torch.no_grad():
        policy.load_state_dict(own_keys(live_policy.state_dict()), assign=True)
    return policy.eval()
