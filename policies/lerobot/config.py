"""A LeRobot config.json of type diffusion -> `PolicyConfig`; nothing is taken from a default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skipstep.observations import STATE

from ..config import PolicyConfig, TaskInfo
from ..encoders.config import BACKBONES, EncoderConfig
from ..unet.config import UnetConfig
from .features import ACTION, Features
from .scheduler import sampler_of
from .settings import CONFIG, Settings, no_adapter

TRAINING = "train_config.json"


def policy_config(
    settings: Settings,
    features: Features,
    normalization: Mapping[str, str],
    task: TaskInfo,
    control_hz: float | None,
) -> PolicyConfig:
    """The settings of the policy.

    Args:
        settings: of config.json, less its features and its normalization_mapping.
        features: what it sees and does.
        normalization: {our name: mode} of what it sees, and of action.
        task: what the training says of its task.
        control_hz: and of its rate; None: nothing.
    """
    no_adapter(settings)
    encoder = _encoder(settings, features)
    obs_dim = features.seen[0].shape[0] if encoder is None else encoder.out_dim
    modes = dict(normalization)
    if encoder is None:
        modes["obs"] = modes.pop(STATE)
    return PolicyConfig(
        network=_network(settings, features, obs_dim),
        obs_dim=obs_dim,
        action_dim=features.action.shape[0],
        n_action_steps=settings.whole("n_action_steps"),
        sampler=sampler_of(settings),
        task=task,
        encoder=encoder,
        aliases=features.aliases,
        normalization={name: modes[name] for name in sorted(modes, key=_place)},
        control_hz=control_hz,
    )


def _place(name: str) -> bool:
    """The action comes last."""
    return name == ACTION


def _network(settings: Settings, features: Features, obs_dim: int) -> UnetConfig:
    return UnetConfig(
        input_dim=features.action.shape[0],
        horizon=settings.whole("horizon"),
        n_obs_steps=settings.whole("n_obs_steps"),
        obs_as="global",
        cond_dim=obs_dim,
        down_dims=settings.wholes("down_dims"),
        diffusion_step_embed_dim=settings.whole("diffusion_step_embed_dim"),
        kernel_size=settings.whole("kernel_size"),
        n_groups=settings.whole("n_groups"),
        cond_predict_scale=settings.flag("use_film_scale_modulation"),
        oa_step_convention=True,  # executed: n_obs_steps - 1 and what follows
    )


def _encoder(settings: Settings, features: Features) -> EncoderConfig | None:
    """None where it sees `state` alone."""
    backbone = settings.choice("vision_backbone", BACKBONES)
    resize, crop = _resize_and_crop(settings)
    n_keypoints = settings.whole("spatial_softmax_num_keypoints")
    group_norm = settings.flag("use_group_norm")
    separate = settings.flag("use_separate_rgb_encoder_per_camera")
    arrays = {f.ours: list(f.shape) for f in features.seen}
    if list(arrays) == [STATE]:
        return None
    images = [f for f in features.seen if f.kind == "VISUAL"]
    if not images:
        return EncoderConfig(arrays)
    whole = resize or list(images[0].shape[1:])
    if crop is not None and any(n > most for n, most in zip(crop, whole, strict=True)):
        raise ValueError(f"{CONFIG}: crop_shape must fit into {whole}, got {crop}")
    return EncoderConfig(
        arrays,
        backbone=backbone,
        norm="group" if group_norm else "batch",
        resize=resize,
        crop=crop,
        pool="spatial_softmax",
        n_keypoints=n_keypoints,
        feature_dim=2 * n_keypoints,
        relu=True,
        shared=not separate,
    )


def _resize_and_crop(settings: Settings) -> tuple[list[int] | None, list[int] | None]:
    """What happens to an image; with a resize, LeRobot derives the crop from `crop_ratio`."""
    resize, crop = settings.size("resize_shape", None), settings.size("crop_shape")
    ratio = settings.number("crop_ratio", 1.0, most=1.0)
    if resize is not None:
        derived = [int(n * ratio) for n in resize] if ratio < 1 else None
        if crop != derived:
            raise ValueError(
                f"{CONFIG}: crop_shape must be {derived}, as resize_shape={resize} and "
                f"crop_ratio={ratio:g} ask for, got {crop}"
            )
    return resize, crop


def task_of(said: Mapping[str, Any] | None) -> tuple[TaskInfo, float | None]:
    """What train_config.json says of the environment that the policy was evaluated in.

    Returns:
        The task's name, if there is an environment; and its rate where `fps` is one of control.
    """
    env = (said or {}).get("env")
    if not isinstance(env, Mapping) or not isinstance(env.get("type"), str):
        return TaskInfo(), None
    name, fps = str(env["type"]), env.get("fps")
    if name not in RATE_OF_CONTROL or fps is None:
        return TaskInfo(name), None
    return TaskInfo(name), Settings({"env.fps": fps}, TRAINING).number("env.fps")


RATE_OF_CONTROL = ("pusht", "aloha")
"""Environments of LeRobot whose `fps` is how often they act; of others it may be of their films."""
