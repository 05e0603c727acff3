"""From the configuration or live objects of real-stanford/diffusion_policy to ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..clipping import cuts
from ..config import PolicyConfig, TaskInfo
from ..families import readers, refused
from ..family import Reader, UnsupportedPolicy, flag
from ..policy import DiffusionPolicy
from ..sampling.table import NEW, SamplerConfig
from .encoder_keys import encoder_state
from .observers import OBSERVERS
from .seen import Seen

log = logging.getLogger(__name__)

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
    known = {f.name for f in fields(SamplerConfig)} - {"kind", "steps", *NEW}
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


def reader_of(cfg: Mapping[str, Any]) -> Reader:
    """Of the class that a checkpoint's config names; an unknown one is refused by name."""
    name = class_name(dict(cfg["policy"]).get("_target_", ""))
    found = [reader for reader in readers() if reader.name == name]
    if not found:
        raise refused(name)
    return found[0]


def policy_config(cfg: Mapping[str, Any]) -> PolicyConfig:
    """The `cfg` of a reference checkpoint, as plain containers -> `PolicyConfig`.

    Raises:
        UnsupportedPolicy: other policies, encoders of images and settings than those that are run
            here.
        ValueError: sizes that contradict each other.
    """
    policy, reader = dict(cfg["policy"]), reader_of(cfg)
    policy.pop("_target_", None)
    for setting, neutral in {"n_latency_steps": 0, "past_action_visible": False}.items():
        if cfg.get(setting, neutral) != neutral:
            raise UnsupportedPolicy(
                f"{setting}={cfg[setting]!r} is not supported (allowed: {neutral})"
            )
    seen = _take_seen(policy, reader)
    if seen and seen.note:
        log.warning("%s", seen.note)
    model = {} if seen else dict(policy.pop("model"))
    scheduler = dict(policy.pop("noise_scheduler"))
    model.pop("_target_", None)
    network = reader.sizes(policy, model)
    own = {k: policy.pop(k) for k in ("obs_dim", "action_dim", "n_action_steps")}
    task = cfg.get("task") or {}
    steps = policy.pop("num_inference_steps", None)
    only = flag(policy.pop("pred_action_steps_only", False), "policy.pred_action_steps_only")
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
        encoder=seen.encoder if seen else None,
        aliases=seen.aliases if seen else {},
    )


def _take_seen(policy: dict[str, Any], reader: Reader) -> Seen | None:
    """What an image policy sees; its sizes take the place of the settings that said so."""
    if not reader.observes:
        return None
    if "shape_meta" not in policy:
        raise UnsupportedPolicy(f"{reader.name} is not supported without policy.shape_meta")
    seen = OBSERVERS[reader.observes](policy)
    policy |= {"obs_dim": seen.encoder.out_dim, "action_dim": seen.action_dim}
    return seen


def own_state(state: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of a checkpoint under our names."""
    reader = reader_of(cfg)
    seen = _take_seen(dict(cfg["policy"]), reader)
    own = own_keys(state, reader)
    return encoder_state(own, seen, reader.observes) if seen else own


def own_keys(state: Mapping[str, Tensor], reader: Reader) -> dict[str, Tensor]:
    """The state under our names but for those of an encoder."""
    return {name: value for key, value in state.items() if (name := reader.key(key))}


def from_reference(live_policy: Any) -> DiffusionPolicy:
    """Wrap a live policy of the low-dimensional kinds, duck-typed; weights are shared."""
    model = getattr(live_policy, "model", None)
    found = [(r, r.live) for r in readers() if r.live and hasattr(model, r.mark)]
    name = type(live_policy).__name__
    if any(reader.observes and reader.name == name for reader in readers()):
        raise UnsupportedPolicy(f"{name}: image policies are read from checkpoints, not live")
    if not found or not hasattr(live_policy, "obs_dim"):
        raise refused(name)
    reader, sizes = found[0]
    scheduler = live_policy.noise_scheduler
    config = PolicyConfig(
        network=sizes(live_policy),
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
        policy.load_state_dict(own_keys(live_policy.state_dict(), reader), assign=True)
    for cut in cuts(config, policy.normalizer):
        log.warning("%s: %s", type(live_policy).__name__, cut)
    return policy.eval()
