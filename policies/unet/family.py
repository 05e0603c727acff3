"""The UNet's record, and how the reference implementation describes one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..family import Exporter, Family, Reader, Recipe, flag, known, not_painted_in
from ..initial_weights import torch_weights
from .config import UnetConfig
from .network import Unet

SETTINGS = (
    *("input_dim", "local_cond_dim", "global_cond_dim", "diffusion_step_embed_dim", "down_dims"),
    *("kernel_size", "n_groups", "cond_predict_scale"),
)
OF_IMAGE_POLICIES: dict[str, Any] = {  # what their classes have where a file says nothing
    **{"diffusion_step_embed_dim": 256, "down_dims": [256, 512, 1024], "kernel_size": 5},
    **{"n_groups": 8, "cond_predict_scale": True},
}


def _from_config(policy: dict[str, Any], model: dict[str, Any]) -> UnetConfig:
    known(model, SETTINGS)
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


def _from_image_config(policy: dict[str, Any], _: dict[str, Any]) -> UnetConfig:
    not_painted_in(policy.pop("obs_as_global_cond", True), "policy.obs_as_global_cond")
    model = {name: policy.pop(name, value) for name, value in OF_IMAGE_POLICIES.items()}
    flag(model["cond_predict_scale"], "policy.cond_predict_scale")
    return UnetConfig(
        **{**model, "down_dims": list(model["down_dims"])},
        input_dim=policy["action_dim"],
        horizon=policy.pop("horizon"),
        n_obs_steps=policy.pop("n_obs_steps"),
        cond_dim=policy["obs_dim"],
        oa_step_convention=True,
    )


def _obs_as(local: bool, everywhere: bool) -> str:
    if local and everywhere:
        raise ValueError("obs_as_local_cond and obs_as_global_cond exclude each other")
    return "local" if local else "global" if everywhere else "in-painting"


def _from_live(live: Any) -> UnetConfig:
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


def _to_config(net: UnetConfig) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    flags = {f"obs_as_{kind}_cond": net.obs_as == kind for kind in ("local", "global")}
    model = {name: value for name, value in asdict(net).items() if name in SETTINGS}
    model["local_cond_dim"] = net.cond_dim if net.obs_as == "local" else None
    model["global_cond_dim"] = net.cond_dim * net.n_obs_steps if net.obs_as == "global" else None
    return flags, {"oa_step_convention": net.oa_step_convention}, model


UNET = Family(
    sizes=UnetConfig,
    network=Unet,
    mark="down_dims",
    readers=(
        Reader("DiffusionUnetLowdimPolicy", _from_config, "down_modules", _from_live),
        Reader("DiffusionUnetHybridImagePolicy", _from_image_config, observes="robomimic"),
        Reader("DiffusionUnetImagePolicy", _from_image_config, observes="multi_image"),
    ),
    exporter=Exporter(
        "unet",
        "conditional_unet1d.ConditionalUnet1D",
        _to_config,
        {
            **{"_target_": "torch.optim.AdamW", "lr": 1e-4, "betas": [0.95, 0.999]},
            **{"eps": 1e-8, "weight_decay": 1e-6},
        },
    ),
    recipe=Recipe(torch_weights, 1e-4, 1e-6, (0.95, 0.999), lambda parameter: True),
)
