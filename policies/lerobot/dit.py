"""A LeRobot policy of type multi_task_dit: its denoiser, and what it is told, which others encode.

LeRobot's CLIP encoders of images and of the instruction are not run here. An observation is the
state, and in the place of each image and of the instruction their numbers: `features.<camera>`,
`text`. What LeRobot calls its conditioning vector is these joined, see `DiffusionPolicy.denoise`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skipstep.observations import IMAGE, STATE

from ..config import PolicyConfig
from ..dit.config import DitConfig
from ..dit.keys import PREFIX, joined_shapes, parted, theirs
from ..dit.network import Dit
from ..encoders.config import EncoderConfig
from ..sampling.flow import CALLS, VELOCITY
from ..sampling.table import SamplerConfig
from ..undrawn import Undrawn
from .features import ACTION, Features
from .keys import WEIGHTS, renamed
from .normalization import Statistics, of_processors
from .scheduler import sampler_of
from .settings import CONFIG, Settings, no_adapter

log = logging.getLogger(__name__)

FEATURES, TEXT = "features.", "text"
ENCODERS = "observation_encoder."
WIDTH = f"{PREFIX}transformer_blocks.0.adaLN_modulation.1.weight"
TOKENIZER = "tokenizer_processor"
OF_ENCODERS, OF_FLOW_TRAINING = "of the encoders, which are not run here", "of the training"
CHANGE_NOTHING: dict[str, str] = {
    **dict.fromkeys(
        (
            *("vision_encoder_name", "text_encoder_name", "vision_encoder_lr_multiplier"),
            *("use_separate_rgb_encoder_per_camera", "use_separate_encoder_per_camera"),
            *("image_resize_shape", "image_crop_shape", "image_crop_is_random"),
            *("tokenizer_max_length", "tokenizer_padding", "tokenizer_padding_side"),
            "tokenizer_truncation",
        ),
        OF_ENCODERS,
    ),
    **dict.fromkeys(
        (
            *("timestep_sampling_strategy", "timestep_sampling_s"),
            *("timestep_sampling_alpha", "timestep_sampling_beta"),
        ),
        OF_FLOW_TRAINING,
    ),
}
DIFFUSION = (
    *("noise_scheduler_type", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end"),
    *("prediction_type", "clip_sample", "clip_sample_range", "num_inference_steps"),
)
FLOW = ("sigma_min", "num_integration_steps", "integration_method")
OBJECTIVES = {"diffusion": FLOW, "flow_matching": DIFFUSION}
"""LeRobot's objective -> the settings of the other one, which it does not read."""


def read_dit(
    folder: Path,
    settings: Settings,
    features: Features,
    state: dict[str, Tensor],
    about: dict[str, Any],
) -> tuple[PolicyConfig, dict[str, Tensor], Statistics]:
    """The settings of the policy, its weights under our names, and its statistics.

    Args:
        folder: of LeRobot's.
        settings: of config.json, less its features; all are taken.
        features: what it sees and does.
        state: of its weights.
        about: what `PolicyConfig` says of its task.
    """
    cameras = [f.ours for f in features.seen if f.kind == "VISUAL"]
    told = replace(features, inputs=tuple(map(_unseen, features.inputs)))
    norm_map = settings.mapping("normalization_mapping")
    modes, statistics = of_processors(folder, norm_map, told, {TOKENIZER: _tokens})
    no_adapter(settings)
    sizes = _sizes(settings)
    arrays = _arrays(sizes, told, cameras, state)
    encoder = EncoderConfig(arrays)
    action_dim = features.action.shape[0]
    network = DitConfig(input_dim=action_dim, cond_dim=encoder.out_dim, **sizes)
    config = PolicyConfig(
        network=network,
        obs_dim=encoder.out_dim,
        action_dim=action_dim,
        n_action_steps=settings.whole("n_action_steps"),
        sampler=_sampler(settings),
        encoder=encoder,
        aliases=told.aliases,
        normalization={**dict.fromkeys(arrays, "identity"), **_in_order(modes)},
        **about,
    )
    return config, _weights(network, state), statistics


def _unseen(feature: Any) -> Any:
    """The network sees the state; of images their features, of environments nothing."""
    return feature if feature.ours == STATE else replace(feature, ours="")


def _in_order(modes: Mapping[str, str]) -> dict[str, str]:
    return {name: modes[name] for name in (STATE, ACTION)}


def _tokens(settings: Settings, features: Features) -> None:
    """The instruction to tokens, of which `text` is made elsewhere."""
    for name in ("max_length", "task_key", "padding_side", "padding", "truncation"):
        settings.take(name, None)
    settings.take("tokenizer_name", None)


def _arrays(
    sizes: Mapping[str, Any], told: Features, cameras: list[str], state: Mapping[str, Tensor]
) -> dict[str, list[int]]:
    """What is seen of one step, in LeRobot's order; widths of features follow from the weights.

    Raises:
        ValueError: they do not come out even.
    """
    known = {STATE: told.seen[0].shape[0], TEXT: sizes["n_emb"]}
    time, steps = sizes["timestep_embed_dim"], sizes["n_obs_steps"]
    weight = state.get(WIDTH)
    if weight is None or weight.ndim != 2:
        raise ValueError(f"{WEIGHTS}: {WIDTH} is missing, or is no matrix")
    left = weight.shape[1] - time - steps * sum(known.values())
    each, rest = divmod(left, steps * max(len(cameras), 1))
    if rest or (each < 1) == bool(cameras) or left < 0:
        raise ValueError(
            f"{WEIGHTS}: {WIDTH} has {weight.shape[1]} columns, of which {time} are of time and "
            f"{steps} times {known[STATE]} + {known[TEXT]} of state and instruction by {CONFIG}: "
            f"{left} are left for {steps} steps of {len(cameras)} cameras"
        )
    names = [FEATURES + camera.removeprefix(IMAGE) for camera in cameras]
    return {STATE: [known[STATE]], **{name: [each] for name in names}, TEXT: [known[TEXT]]}


def _sizes(settings: Settings) -> dict[str, Any]:
    """Of the network, but what it sees and does."""
    return {
        "horizon": settings.whole("horizon"),
        "n_obs_steps": settings.whole("n_obs_steps"),
        "n_layer": settings.whole("num_layers"),
        "n_head": settings.whole("num_heads"),
        "n_emb": settings.whole("hidden_dim"),
        "timestep_embed_dim": settings.whole("timestep_embed_dim"),
        "use_rope": settings.flag("use_rope"),
        "rope_base": settings.number("rope_base"),
        "use_positional_encoding": settings.flag("use_positional_encoding"),
        "p_drop_attn": settings.take("dropout"),
    }


def _sampler(settings: Settings) -> SamplerConfig:
    objective = settings.choice("objective", OBJECTIVES)
    if objective == "diffusion":
        found = sampler_of(settings)
    else:
        found = SamplerConfig(
            kind=settings.choice("integration_method", CALLS),
            steps=settings.whole("num_integration_steps"),
            prediction_type=VELOCITY,
            sigma_min=settings.take("sigma_min"),
        )
    for name in OBJECTIVES[objective]:
        settings.take(name, None)
    return found


def _weights(network: DitConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The denoiser's, under our names; those of the encoders are left where they are."""
    with torch.device("meta"), Undrawn():
        made = Dit(network).state_dict()
    wanted = joined_shapes({key: tuple(value.shape) for key, value in made.items()})
    own = {key: value for key, value in state.items() if not key.startswith(ENCODERS)}
    log.info(
        "%s: %d weights of encoders (%s*) are not read: give what they make of images and "
        "instructions in their place",
        *(WEIGHTS, len(state) - len(own), ENCODERS),
    )
    found = parted(renamed(own, wanted, lambda key: theirs(key, network.use_rope)))
    return {f"model.{key}": value for key, value in found.items()}
