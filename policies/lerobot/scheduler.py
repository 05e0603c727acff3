"""A sampler as LeRobot names it: a scheduler of diffusers with most settings at their default."""

from __future__ import annotations

from typing import Any

from ..sampling.table import SamplerConfig
from .settings import CONFIG, Settings, is_whole

SCHEDULERS = {"DDPM": "ddpm", "DDIM": "ddim"}
PREDICTIONS = ("epsilon", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


def sampler_of(settings: Settings) -> SamplerConfig:
    """As LeRobot makes diffusers' scheduler: what it does not pass on is diffusers' default."""
    trained = settings.whole("num_train_timesteps")
    steps = settings.take("num_inference_steps")
    if steps is not None and not (is_whole(steps) and steps <= trained):
        raise ValueError(
            f"{CONFIG}: num_inference_steps must be null or from 1 to num_train_timesteps = "
            f"{trained}, got {steps!r}"
        )
    return SamplerConfig(
        kind=SCHEDULERS[settings.choice("noise_scheduler_type", SCHEDULERS)],
        steps=steps or trained,
        num_train_timesteps=trained,
        beta_start=settings.number("beta_start", most=1.0),
        beta_end=settings.number("beta_end", most=1.0),
        beta_schedule=settings.choice("beta_schedule", BETA_SCHEDULES),
        prediction_type=settings.choice("prediction_type", PREDICTIONS),
        clip_sample=settings.flag("clip_sample"),
        clip_sample_range=settings.number("clip_sample_range"),
    )


def scheduler_settings(sampler: SamplerConfig) -> dict[str, Any]:
    """As much of a sampler as config.json has a place for.

    Raises:
        ValueError: it is of a kind that LeRobot does not have.
    """
    names = {ours: theirs for theirs, ours in SCHEDULERS.items()}
    if sampler.kind not in names:
        raise ValueError(
            f"LeRobot has no sampler.kind={sampler.kind} ({', '.join(names)} only): export the "
            "policy with one of them, and choose at run time"
        )
    whole = sampler.steps == sampler.num_train_timesteps
    return {
        "noise_scheduler_type": names[sampler.kind],
        "num_train_timesteps": sampler.num_train_timesteps,
        "beta_schedule": sampler.beta_schedule,
        "beta_start": sampler.beta_start,
        "beta_end": sampler.beta_end,
        "prediction_type": sampler.prediction_type,
        "clip_sample": sampler.clip_sample,
        "clip_sample_range": sampler.clip_sample_range,
        "num_inference_steps": None if whole else sampler.steps,
    }
