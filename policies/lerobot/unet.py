"""A LeRobot policy of type diffusion: a UNet, and encoders of images of this project."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import PolicyConfig
from ..encoders.encoder import ObservationEncoder
from ..families import family_named
from ..undrawn import Undrawn
from .config import policy_config
from .features import Features
from .keys import renamed, theirs
from .normalization import Statistics, of_buffers, of_processors
from .processors import POSTPROCESSOR, PREPROCESSOR
from .settings import Settings


def read_unet(
    folder: Path,
    settings: Settings,
    features: Features,
    state: dict[str, Tensor],
    about: dict[str, Any],
) -> tuple[PolicyConfig, dict[str, Tensor], Statistics]:
    """Of type diffusion; arguments and result as of `read_dit`."""
    norm_map = settings.mapping("normalization_mapping")
    if any((folder / name).exists() for name in (PREPROCESSOR, POSTPROCESSOR)):
        modes, statistics = of_processors(folder, norm_map, features)
    else:
        modes, statistics = of_buffers(state, norm_map, features)
    config = policy_config(settings, features, modes, **about)
    return config, _weights(config, state), statistics


def _weights(config: PolicyConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the statistics, under our names."""
    wanted = {f"{part}.{key}": shape for part, key, shape in _shapes(config)}
    shared = config.encoder is not None and config.encoder.shared
    return renamed(state, wanted, partial(theirs, shared_encoder=shared))


def _shapes(config: PolicyConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Part of a policy, name and shape of each of its weights and buffers."""
    with torch.device("meta"), Undrawn():
        parts = {"model": family_named(config.network.family).network(config.network)}
        if config.encoder is not None:
            parts["encoder"] = ObservationEncoder(config.encoder)
    for part, module in parts.items():
        for key, value in module.state_dict().items():
            yield part, key, tuple(value.shape)
