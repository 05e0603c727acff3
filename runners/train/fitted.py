"""The normaliser of a training, and where its sampler cuts predictions.

Both are known before the first step: from the training side of the data, or from the policy that a
training goes on from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from policies import DatasetError, PolicyConfig
from policies.clipping import TOLERANCE, predicted_fields
from policies.data.normalizer import Normalizer
from skipstep.observations import ObservationSpec

from .observing import fit_pixels
from .settings import Training

log = logging.getLogger(__name__)

UNIT_MODES = ("min_max", "min_max_eps")  # of normalisers of LeRobot's policies
UNIT = 1.0  # what normalizer=limits maps the data to


def fitted(runner: Training, data: Mapping[str, Tensor], images: ObservationSpec) -> Normalizer:
    """A normaliser of arrays of numbers, (n, dim) each, among them "action"; and of images.

    Raises:
        DatasetError: a number cannot be normalised.
    """
    dims: dict[str, int | tuple[int, ...]] = {f: x.shape[1] for f, x in data.items()}
    dims |= {name: (images[name].shape[0], 1, 1) for name in images}
    normalizer = Normalizer(dims)
    for field, values in data.items():
        eps = runner.action_range_eps if field == "action" else runner.obs_range_eps
        try:
            normalizer.fit(field, values, runner.normalizer, eps)
        except ValueError as error:
            raise DatasetError(f"{', '.join(runner.files)}: {error}") from error
    for name in images:
        fit_pixels(normalizer, name, runner.encoder.normalizer)
    return normalizer


def clipped(
    runner: Training, config: PolicyConfig, normalizer: Normalizer, data: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The settings of a sampler's clip that `runner.clip` asks for, with a warning if it cuts data.

    Where it asks for nothing, the clip follows the normaliser: 1 for limits, or where that of
    `runner.init` maps the data that it was fitted to into [-1, 1]; else the largest number that is
    to be predicted, rounded up.
    """
    if config.sampler.is_flow:  # it cuts nothing
        return {}
    values = {f: normalizer.normalize(f, data[f]).abs() for f in predicted_fields(config)}
    if runner.clip is False:
        return {"clip_sample": False, "clip_sample_range": UNIT}
    clip = runner.clip
    if clip is None:
        reach = max(float(found.max()) for found in values.values())
        within = (
            all(_in_unit(normalizer, field) for field in values)
            if runner.init
            else runner.normalizer == "limits"
        )
        clip = UNIT if within else max(UNIT, math.ceil(reach * 100) / 100)
    for field, found in values.items():
        beyond = found > clip * (1 + TOLERANCE)
        if bool(beyond.any()):
            log.warning(
                "clip %g cuts %.1f %% of the %s numbers in %.1f %% of the steps (normalised, they "
                "reach %.3g): not even a perfect network could predict them; see runner.clip",
                clip,
                100 * float(beyond.float().mean()),
                field,
                100 * float(beyond.any(1).float().mean()),
                float(found.max()),
            )
    return {"clip_sample": True, "clip_sample_range": float(clip)}


def _in_unit(normalizer: Normalizer, field: str) -> bool:
    if field in normalizer.modes:
        return normalizer.modes[field] in UNIT_MODES
    stats = normalizer.params_dict[field]["input_stats"]
    ends = torch.stack([normalizer.normalize(field, stats[name]) for name in ("min", "max")])
    return bool((ends.abs() <= UNIT + TOLERANCE).all())
