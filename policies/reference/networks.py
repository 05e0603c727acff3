"""The networks of real-stanford/diffusion_policy's policies: their sizes in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from ..transformer.network import NetworkConfig
from ..unet.config import UnetConfig

TRANSFORMER, UNET = "DiffusionTransformerLowdimPolicy", "DiffusionUnetLowdimPolicy"
UNET_SETTINGS = (
    *("input_dim", "local_cond_dim", "global_cond_dim", "diffusion_step_embed_dim", "down_dims"),
    *("kernel_size", "n_groups", "cond_predict_scale"),
)


class UnsupportedPolicy(ValueError):
    """The checkpoint holds a policy that this project does not run."""


def refused(name: object) -> UnsupportedPolicy:
    return UnsupportedPolicy(
        f"{name} is not supported: {TRANSFORMER} and {UNET} are (no image, hybrid or IBC policies)"
    )


def flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise UnsupportedPolicy(f"{where} must be true or false, got {value!r}")
    return value


def _known(model: dict[str, Any], names: Iterable[str]) -> None:
    if unknown := set(model) - set(names):
        raise UnsupportedPolicy(
            f"policy.model has settings this project does not know: {sorted(unknown)}"
        )


def _transformer(policy: dict[str, Any], model: dict[str, Any]) -> NetworkConfig:
    _known(model, (f.name for f in fields(NetworkConfig)))
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
    horizon, n_obs_steps = policy.pop("horizon"), policy.pop("n_obs_steps")
    if (horizon, n_obs_steps) != (network.horizon, network.n_obs_steps):
        raise ValueError(
            f"horizon and n_obs_steps of policy ({horizon}, {n_obs_steps}) and network "
            f"({network.horizon}, {network.n_obs_steps}) differ"
        )
    if flag(policy.pop("obs_as_cond", False), "policy.obs_as_cond") != network.obs_as_cond:
        raise ValueError("policy.obs_as_cond contradicts policy.model.cond_dim")
    return network


def _unet(policy: dict[str, Any], model: dict[str, Any]) -> UnetConfig:
    _known(model, UNET_SETTINGS)
    n_obs_steps, obs_dim = policy.pop("n_obs_steps"), policy["obs_dim"]
    said = {
        name: flag(policy.pop(name, False), f"policy.{name}")
        for name in ("obs_as_local_cond", "obs_as_global_cond", "oa_step_convention")
    }
    obs_as = _obs_as(said["obs_as_local_cond"], said["obs_as_global_cond"])
    dims = {name: model.pop(name, None) for name in ("local_cond_dim", "global_cond_dim")}
    wanted = {
        "local_cond_dim": obs_dim if obs_as == "local" else None,
        "global_cond_dim": obs_dim * n_obs_steps if obs_as == "global" else None,
    }
    for name, value in wanted.items():
        if dims[name] != value:
            raise ValueError(f"policy.model.{name} must be {value}, got {dims[name]}")
    flag(model.get("cond_predict_scale", False), "policy.model.cond_predict_scale")
    return UnetConfig(
        **model,
        horizon=policy.pop("horizon"),
        n_obs_steps=n_obs_steps,
        obs_as=obs_as,
        cond_dim=0 if obs_as == "in-painting" else obs_dim,
        oa_step_convention=said["oa_step_convention"],
    )


def _obs_as(local: bool, everywhere: bool) -> str:
    if local and everywhere:
        raise ValueError("obs_as_local_cond and obs_as_global_cond exclude each other")
    return "local" if local else "global" if everywhere else "in-painting"


OF_CONFIG: dict[str, Callable[[dict[str, Any], dict[str, Any]], NetworkConfig | UnetConfig]] = {
    TRANSFORMER: _transformer,
    UNET: _unet,
}
"""Policy class -> (cfg.policy, cfg.policy.model) to sizes; what is used leaves the dicts."""


def _live_transformer(live: Any) -> NetworkConfig:
    model = live.model
    observed = getattr(model, "cond_obs_emb", None)
    encoder_only = getattr(model, "cond_pos_emb", None) is None
    layers = (model.encoder if encoder_only else model.decoder).layers
    return NetworkConfig(
        input_dim=model.input_emb.in_features,
        output_dim=model.head.out_features,
        horizon=live.horizon,
        n_obs_steps=live.n_obs_steps,
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


def _live_unet(live: Any) -> UnetConfig:
    levels = [level[0].blocks[0].block for level in live.model.down_modules]
    convolution, norm = levels[0][:2]
    told = live.model.down_modules[0][0].cond_encoder[1].out_features
    obs_as = _obs_as(live.obs_as_local_cond, live.obs_as_global_cond)
    return UnetConfig(
        input_dim=convolution.in_channels,
        horizon=live.horizon,
        n_obs_steps=live.n_obs_steps,
        obs_as=obs_as,
        cond_dim=0 if obs_as == "in-painting" else live.obs_dim,
        down_dims=[level[0].out_channels for level in levels],
        diffusion_step_embed_dim=live.model.diffusion_step_encoder[-1].out_features,
        kernel_size=convolution.kernel_size[0],
        n_groups=norm.num_groups,
        cond_predict_scale=told == 2 * convolution.out_channels,
        oa_step_convention=live.oa_step_convention,
    )


OF_LIVE: dict[str, Callable[[Any], NetworkConfig | UnetConfig]] = {
    "pos_emb": _live_transformer,
    "down_modules": _live_unet,
}
"""An attribute of the live network -> the policy to sizes."""
