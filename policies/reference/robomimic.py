"""robomimic's own diffusion policies (0.5), said in the reference implementation's words.

Its `DiffusionPolicyUNet` is the reference's UNet policy with other names: `policy.noise_pred_net`
is its network, of one size whatever the config says, `policy.obs_encoder` the encoder of its hybrid
image policies, with group norms. Pixels stay in [0, 1], and numbers as they are unless the file has
statistics of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..encoders.encoder import center
from ..family import UnsupportedPolicy
from .observers import CROP

ALGORITHM = "diffusion_policy"
NAMES = {  # the beginning of a weight's name -> in the reference
    "policy.obs_encoder.nets.obs.": "obs_encoder.",
    "policy.noise_pred_net.": "model.",
}
UNET = {
    **{"diffusion_step_embed_dim": 256, "down_dims": [256, 512, 1024], "kernel_size": 5},
    **{"n_groups": 8, "cond_predict_scale": True},
}
NETWORK: dict[str, Any] = {  # settings of a camera's network: the only values that are read
    **{"backbone_class": "ResNet18Conv", "pool_class": "SpatialSoftmax", "feature_dimension": 64},
    **{"flatten": True, "backbone_kwargs.input_coord_conv": False, "pool_kwargs.num_kp": 32},
    **{"pool_kwargs.output_variance": False},
}
OF_TRAINING = (
    *("backbone_kwargs.pretrained", "pool_kwargs.noise_std", "pool_kwargs.learnable_temperature"),
    "pool_kwargs.temperature",  # in the weights too
)
RGB = "observation.encoder.rgb"
SCHEDULERS = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler"}
OF_KIND = {"low_dim": 1, "rgb": 3}  # axes of an array
ROBOSUITE = [1, 5]  # from it on worlds and controllers are others than here


def reference_cfg(said: Mapping[str, Any]) -> dict[str, Any]:
    """The reference's cfg for what a checkpoint of robomimic says.

    Args:
        said: the checkpoint but for its weights, as plain data.

    Raises:
        UnsupportedPolicy: an algorithm, an encoder or actions that are not run here.
    """
    if said["algo_name"] != ALGORITHM:
        raise UnsupportedPolicy(
            f"robomimic's {said['algo_name']} policies are not supported: of its algorithms, "
            f"{ALGORITHM} is"
        )
    config = json.loads(said["config"])
    algo, horizon = config["algo"], config["algo"]["horizon"]
    if not algo["unet"]["enabled"]:
        raise UnsupportedPolicy("algo.unet.enabled=false is not supported: robomimic lacks it too")
    _check_actions(config["train"])
    kind = "ddpm" if algo["ddpm"]["enabled"] else "ddim"
    scheduler = {k: v for k, v in algo[kind].items() if k != "enabled"}
    steps = scheduler.pop("num_inference_timesteps")
    policy = {
        "noise_scheduler": {"_target_": SCHEDULERS[kind], **scheduler},
        "num_inference_steps": steps,
        "horizon": horizon["prediction_horizon"],
        "n_action_steps": horizon["action_horizon"],
        "n_obs_steps": horizon["observation_horizon"],
        "obs_as_global_cond": True,
    }
    return {
        "policy": policy | _observed(config["observation"], said, policy["n_obs_steps"]),
        "training": {"use_ema": algo["ema"]["enabled"]},
        "task": _task(said.get("env_metadata") or {}),
    }


def _observed(config: Mapping[str, Any], said: Mapping[str, Any], n_obs_steps: int) -> Any:
    """What depends on whether there are images."""
    shapes, n_actions = _shapes(config["modalities"]["obs"], said)
    if any(len(shape) == 3 for shape in shapes.values()):
        images = [shape for shape in shapes.values() if len(shape) == 3]
        meta = {
            name: {"shape": shape, "type": "rgb" if len(shape) == 3 else "low_dim"}
            for name, shape in shapes.items()
        }
        return UNET | {
            "_target_": "DiffusionUnetHybridImagePolicy",
            "shape_meta": {"obs": meta, "action": {"shape": [n_actions]}},
            "crop_shape": _crop(config["encoder"]["rgb"], images),
            **{"obs_encoder_group_norm": True, "eval_fixed_crop": True},
        }
    dim = sum(shape[0] for shape in shapes.values())
    sizes = {"input_dim": n_actions, "global_cond_dim": dim * n_obs_steps}
    return {
        **{"_target_": "DiffusionUnetLowdimPolicy", "model": UNET | sizes},
        **{"obs_dim": dim, "action_dim": n_actions, "oa_step_convention": True},
    }


def _shapes(kinds: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[dict[str, list[int]], int]:
    """The arrays that it sees, in the order in which it joins them; numbers of an action."""
    meta = said["shape_metadata"]
    if others := [kind for kind, names in kinds.items() if names and kind not in OF_KIND]:
        raise UnsupportedPolicy(
            f"observation.modalities.obs.{others[0]} must be empty, got {kinds[others[0]]}"
        )
    wanted = {name: OF_KIND[kind] for kind, names in kinds.items() for name in names}
    found = {name: list(shape) for name, shape in meta["all_shapes"].items() if name in wanted}
    for name, n_axes in wanted.items():
        if len(found.get(name, ())) != n_axes:
            raise UnsupportedPolicy(
                f"shape_metadata.all_shapes.{name} must have {n_axes} sizes, got {found.get(name)}"
            )
    return found, meta["ac_dim"]


def _crop(config: Mapping[str, Any], images: list[list[int]]) -> list[int] | None:
    """What an image is cropped to; refuses another network than the one of hybrid policies."""
    _check_network(config)
    kind, settings = config["obs_randomizer_class"], config["obs_randomizer_kwargs"] or {}
    if isinstance(kind, list) and len(kind) == 1:
        (kind,), settings = kind, settings[0] if isinstance(settings, list) else settings
    if kind is None:
        return None
    if kind != "CropRandomizer" or settings.get("pos_enc"):
        raise _other("obs_randomizer_class", "CropRandomizer without pos_enc, or null", kind)
    size = [settings.get("crop_height", CROP[0]), settings.get("crop_width", CROP[1])]
    for n, cropped in (pair for shape in images for pair in zip(shape[1:], size, strict=True)):
        if center(n, cropped) != (n - cropped) // 2:
            raise UnsupportedPolicy(
                f"{RGB}: robomimic crops {n} pixels to {cropped} from {(n - cropped) // 2} on, "
                f"this project from {center(n, cropped)} on"
            )
    return size


def _check_network(config: Mapping[str, Any]) -> None:
    if config["core_class"] != "VisualCore":
        raise _other("core_class", "VisualCore", config["core_class"])
    for name, value in _flat(config["core_kwargs"] or {}):
        if name in OF_TRAINING:
            continue
        if name not in NETWORK:
            raise UnsupportedPolicy(f"{RGB}.core_kwargs.{name} is not known to this project")
        if value != NETWORK[name]:
            raise _other(f"core_kwargs.{name}", NETWORK[name], value)


def _other(name: str, allowed: object, got: object) -> UnsupportedPolicy:
    return UnsupportedPolicy(f"{RGB}.{name} must be {allowed}, got {got}")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check_actions(train: Mapping[str, Any]) -> None:
    for key in train.get("action_keys", ()):
        form = (train.get("action_config", {}).get(key) or {}).get("format")
        if form is not None:
            raise UnsupportedPolicy(
                f"train.action_config.{key}.format={form} is not supported: it is converted when "
                "it is executed"
            )


def _task(world: Mapping[str, Any]) -> dict[str, Any]:
    """What its world is: with a version in its name (`lift1.5.1`) one that is no task of ours."""
    name, version = str(world.get("env_name", "")).lower(), str(world.get("env_version", ""))
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    controller = (world.get("env_kwargs") or {}).get("controller_configs") or {}
    said = {}
    if isinstance(controller.get("control_delta"), bool):
        said["abs_action"] = not controller["control_delta"]
    return {"name": name + version if numbers >= ROBOSUITE else name, **said}


def reference_state(
    state: Mapping[str, Tensor], cfg: Mapping[str, Any], said: Mapping[str, Any]
) -> dict[str, Tensor]:
    """A state dict under the reference's names, with the maps of its normaliser.

    Args:
        state: under robomimic's names.
        cfg: what `reference_cfg` made of `said`.
        said: as there.

    Raises:
        UnsupportedPolicy: a weight of unknown name, or statistics that do not fit.
    """
    found = {}
    for key, value in state.items():
        begins = [name for name in NAMES if key.startswith(name)]
        if not begins:
            raise UnsupportedPolicy(f"model: {key} is not known to this project")
        found[NAMES[begins[0]] + key.removeprefix(begins[0])] = value
    for field, entry in _maps(said, "shape_meta" in cfg["policy"]).items():
        found |= {f"normalizer.params_dict.{field}.{name}": v for name, v in entry.items()}
    return found


def _maps(said: Mapping[str, Any], has_images: bool) -> dict[str, dict[str, Tensor]]:
    """Of each field of the normaliser."""
    config = json.loads(said["config"])
    shapes, n_actions = _shapes(config["observation"]["modalities"]["obs"], said)
    keys = config["train"].get("action_keys") or ["actions"]
    statistics = said.get("action_normalization_stats")
    found = {"action": _map("action_normalization_stats", statistics, keys, n_actions)}
    statistics = said.get("obs_normalization_stats")
    if not has_images:
        n = sum(shape[0] for shape in shapes.values())
        return found | {"obs": _map("obs_normalization_stats", statistics, list(shapes), n)}
    for name, shape in shapes.items():
        seen = statistics if len(shape) == 1 else None
        found[name] = _map("obs_normalization_stats", seen, [name], shape[0] if seen else 1)
    if statistics and any(len(shape) == 3 for shape in shapes.values()):
        raise UnsupportedPolicy("obs_normalization_stats beside images are not supported")
    return found


def _map(where: str, statistics: Any, keys: list[str], n: int) -> dict[str, Tensor]:
    """(x - offset) / scale as x * scale + offset; the limits are those that become -1 and 1."""
    offset, scale = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    if statistics is not None:
        parts = [[statistics[key][name] for key in keys] for name in ("offset", "scale")]
        offset, scale = (
            torch.cat([torch.tensor(part, dtype=torch.float64).flatten() for part in columns])
            for columns in parts
        )
        if len(offset) != n or len(scale) != n or not bool((scale > 0).all()):
            raise UnsupportedPolicy(f"{where} must hold {n} offsets, and as many scales above 0")
    limits = {"min": offset - scale, "max": offset + scale, "mean": offset, "std": scale}
    return {
        **{"scale": 1 / scale, "offset": -offset / scale},
        **{f"input_stats.{name}": value for name, value in limits.items()},
    }
