"""From the settings of our policies to a config.json, read again to see that it says the same.

LeRobot's form has less room than ours. What it cannot say comes back as something else, and is
refused by that name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from skipstep.observations import ENVIRONMENT, IMAGE, STATE

from ..config import PolicyConfig, TaskInfo
from ..encoders.config import EncoderConfig
from ..family import UnsupportedPolicy
from ..unet.config import UnetConfig
from .config import policy_config
from .features import ACTION, NUMBERS, PREFIX, Features, features_of
from .scheduler import scheduler_settings
from .settings import CHANGE_NOTHING, Settings

WHY: dict[str, str] = {
    "network.obs_as": "its network sees observations in every block (obs_as=global)",
    "network.oa_step_convention": "it executes actions from the newest observation on",
    "pred_action_steps_only": "it predicts the whole horizon",
    "encoder.pool": "its encoder ends in a spatial softmax",
    "encoder.feature_dim": "its encoder ends in a linear layer as wide as two numbers a keypoint",
    "encoder.relu": "its encoder ends in a ReLU",
    "encoder.arrays": "it joins state, cameras, environment_state in this order",
}
NOT_SAID = ("task", "control_hz", "aliases", "normalization")
"""Of the training's environment, other names, and what normalization.py writes elsewhere."""
CAMERA_KIND, IMAGE_SETTINGS = "VISUAL", EncoderConfig({STATE: [1]})


def said_by(config: PolicyConfig, split: int | None) -> tuple[dict[str, Any], Features]:
    """The content of config.json but its `normalization_mapping`, and the features it names.

    Args:
        config: of the policy.
        split: of a policy that sees one array: how many of its numbers LeRobot is to call
            observation.state, the others being observation.environment_state.

    Raises:
        UnsupportedPolicy, ValueError: a setting that LeRobot has no place for, and why.
    """
    if not isinstance(config.network, UnetConfig):
        raise UnsupportedPolicy(
            f"LeRobot's diffusion policy is a UNet, this one is of family {config.network.family}"
        )
    seen = _seen(config, split)
    said = {
        "type": "diffusion",
        "n_obs_steps": config.network.n_obs_steps,
        "input_features": {theirs: {"type": kind, "shape": shape} for theirs, kind, shape in seen},
        "output_features": {ACTION: {"type": "ACTION", "shape": [config.action_dim]}},
        **_neutral(),
        "horizon": config.network.horizon,
        "n_action_steps": config.n_action_steps,
        **_image_settings(config.encoder or IMAGE_SETTINGS),
        "down_dims": list(config.network.down_dims),
        "kernel_size": config.network.kernel_size,
        "n_groups": config.network.n_groups,
        "diffusion_step_embed_dim": config.network.diffusion_step_embed_dim,
        "use_film_scale_modulation": config.network.cond_predict_scale,
        **scheduler_settings(config.sampler),
    }
    _check_length(config.network)
    return said, _read_again(said, config, split)


def _seen(config: PolicyConfig, split: int | None) -> list[tuple[str, str, list[int]]]:
    """LeRobot's name, kind and shape of each array."""
    if config.encoder is None:
        whole = config.obs_dim
        if split is None or not 1 <= split < whole:
            raise ValueError(
                "LeRobot's policies see observation.state and something else: say how many of the "
                f"{whole} numbers are the state (from 1 to {whole - 1}, the others become "
                f"observation.environment_state), got {split}"
            )
        return [
            (NUMBERS["STATE"][0], "STATE", [split]),
            (NUMBERS["ENV"][0], "ENV", [whole - split]),
        ]
    if split is not None:
        raise ValueError(
            f"a split is of policies that see one array, this one sees "
            f"{', '.join(config.encoder.arrays)}"
        )
    names = {ours: theirs for theirs, ours in config.aliases.items() if theirs.startswith(PREFIX)}
    kinds = {STATE: "STATE", ENVIRONMENT: "ENV"}
    found = []
    for ours, shape in config.encoder.arrays.items():
        kind = kinds.get(ours, CAMERA_KIND)
        usual = f"{PREFIX}images.{ours.removeprefix(IMAGE)}"
        theirs = NUMBERS[kind][0] if kind in NUMBERS else names.get(ours, usual)
        found.append((theirs, kind, shape))
    return found


def _neutral() -> dict[str, Any]:
    """What changes no action, as LeRobot fills it in by itself."""
    return {
        "device": "cpu",
        "use_amp": False,
        "use_peft": False,
        "push_to_hub": False,
        "repo_id": None,
        "private": None,
        "tags": None,
        "license": None,
        "pretrained_path": None,
        "drop_n_last_frames": 7,
        "crop_is_random": True,
        "pretrained_backbone_weights": None,
        "compile_model": False,
        "compile_mode": "reduce-overhead",
        "do_mask_loss_for_padding": False,
        "optimizer_lr": 1e-4,
        "optimizer_betas": [0.95, 0.999],
        "optimizer_eps": 1e-8,
        "optimizer_weight_decay": 1e-6,
        "scheduler_name": "cosine",
        "scheduler_warmup_steps": 500,
    }


def _image_settings(encoder: EncoderConfig) -> dict[str, Any]:
    return {
        "vision_backbone": encoder.backbone,
        "resize_shape": encoder.resize,
        "crop_ratio": _ratio(encoder.resize, encoder.crop),
        "crop_shape": encoder.crop,
        "use_group_norm": encoder.norm == "group",
        "spatial_softmax_num_keypoints": encoder.n_keypoints,
        "use_separate_rgb_encoder_per_camera": not encoder.shared,
    }


def _ratio(resize: list[int] | None, crop: list[int] | None) -> float:
    """The crop_ratio that gives this crop; where there is none, the one closest to it."""
    if resize is None or crop is None:
        return 1.0
    pairs = list(zip(resize, crop, strict=True))
    low = max(cut / whole for whole, cut in pairs)
    high = min((cut + 1) / whole for whole, cut in pairs)
    middle = (low + high) / 2
    fits = [r for r in (low, math.nextafter(low, 1), middle) if r < 1]
    exact = [r for r in fits if [int(whole * r) for whole in resize] == list(crop)]
    return (exact or fits or [1.0])[0]


def _check_length(network: UnetConfig) -> None:
    factor = 1 << len(network.down_dims)
    if network.horizon % factor:
        raise ValueError(
            f"LeRobot wants a network.horizon that is a multiple of {factor} for "
            f"{len(network.down_dims)} levels, got {network.horizon}"
        )


def _read_again(said: Mapping[str, Any], config: PolicyConfig, split: int | None) -> Features:
    """What the file would be read as, compared with the policy.

    Raises:
        UnsupportedPolicy: the first setting that differs.
    """
    settings = Settings({k: v for k, v in said.items() if k != "type"})
    features = features_of(settings)
    modes = dict.fromkeys([f.ours for f in (*features.seen, features.action)], "identity")
    again = policy_config(settings, features, modes, TaskInfo(), None)
    settings.finish(CHANGE_NOTHING)
    whole = (*NOT_SAID, *([] if split is None else ["encoder"]))
    found = [d for d in _differences("", config, again) if d[0] not in whole]
    for name, ours, theirs in sorted(found, key=lambda d: d[0] not in WHY):
        raise UnsupportedPolicy(
            f"LeRobot's diffusion policies cannot have {name}={ours!r} (it would be {theirs!r}): "
            f"{WHY.get(name, 'there is no place for it in config.json')}"
        )
    return features


def _differences(where: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """Settings that are not the same, by name; mappings are compared with their order."""
    if is_dataclass(ours) and type(ours) is type(theirs):
        for f in fields(ours):
            name = f"{where}.{f.name}" if where else f.name
            yield from _differences(name, getattr(ours, f.name), getattr(theirs, f.name))
    elif ours != theirs or (isinstance(ours, Mapping) and list(ours) != list(theirs)):
        yield where, ours, theirs
