"""The transformer's record, and how the reference implementation describes one."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from ..family import Exporter, Family, Reader, Recipe, flag, known, not_painted_in
from ..initial_weights import mingpt_weights
from .config import NetworkConfig
from .network import DiffusionTransformer

OF_IMAGE_POLICIES: dict[str, Any] = {  # what their class has where a file says nothing
    **{"n_layer": 8, "n_cond_layers": 0, "n_head": 4, "n_emb": 256},
    **{"p_drop_emb": 0.0, "p_drop_attn": 0.3, "causal_attn": True, "time_as_cond": True},
}


def _from_config(policy: dict[str, Any], model: dict[str, Any]) -> NetworkConfig:
    known(model, (f.name for f in fields(NetworkConfig)))
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


def _from_image_config(policy: dict[str, Any], _: dict[str, Any]) -> NetworkConfig:
    not_painted_in(policy.pop("obs_as_cond", True), "policy.obs_as_cond")
    model = {name: policy.pop(name, value) for name, value in OF_IMAGE_POLICIES.items()}
    for name in ("causal_attn", "time_as_cond"):
        flag(model[name], f"policy.{name}")
    return NetworkConfig(
        **model,
        input_dim=policy["action_dim"],
        output_dim=policy["action_dim"],
        horizon=policy.pop("horizon"),
        n_obs_steps=policy.pop("n_obs_steps"),
        cond_dim=policy["obs_dim"],
    )


def _from_live(live: Any) -> NetworkConfig:
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


def _to_config(net: NetworkConfig) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    # our network is told whether observations are conditions, the reference's finds out
    return {"obs_as_cond": net.obs_as_cond}, {}, asdict(net)


TRANSFORMER = Family(
    sizes=NetworkConfig,
    network=DiffusionTransformer,
    masks=("mask", "memory_mask"),
    mark="n_layer",
    readers=(
        Reader("DiffusionTransformerLowdimPolicy", _from_config, "pos_emb", _from_live),
        Reader("DiffusionTransformerHybridImagePolicy", _from_image_config, observes="robomimic"),
    ),
    exporter=Exporter(
        "transformer",
        "transformer_for_diffusion.TransformerForDiffusion",
        _to_config,
        {"learning_rate": 1e-4, "weight_decay": 1e-3, "betas": [0.9, 0.95]},
        ("model._dummy_variable",),
    ),
    recipe=Recipe(mingpt_weights, 3e-4, 1e-3, (0.9, 0.95), lambda parameter: parameter.ndim == 2),
)
