"""Whether a sampler cuts off what a policy was trained to predict.

Samplers clip the clean trajectory that each step predicts to [-range, range]. That costs nothing
where the normaliser maps the training data to [-1, 1]; where it maps them to mean 0 and deviation
1, not even a perfect network could give back a third of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import PolicyConfig
from .data.normalizer import Normalizer
from .sampling.table import SamplerConfig

TOLERANCE = 1e-3  # an end of the range may be rounded beyond it


@dataclass(frozen=True)
class Cut:
    """Numbers of a field that the clip does not let through.

    Attributes:
        field: "action" or "obs".
        clip: where it cuts, in normalised units.
        reach: the largest normalised magnitude in the training data.
        share: of the field's numbers in the training data that lie beyond, as far as their mean
            and deviation tell (as if they were normally distributed).
        mode: of `normalization`, where the field has one; the reach is then not known (NaN).
    """

    field: str
    clip: float
    reach: float
    share: float
    mode: str = ""

    def __str__(self) -> str:
        known = f"that it was trained on reach {self.reach:.3g} (normalised)"
        return (
            f"clip_sample cuts predictions at {self.clip:g}, the {self.field} numbers "
            f"{f'are normalised by {self.mode}' if self.mode else known}: about {self.share:.0%} "
            "of them, were they normally distributed, can never be predicted"
        )


def predicted_fields(config: PolicyConfig) -> tuple[str, ...]:
    """The fields of the trajectory that is denoised."""
    return ("action",) if config.network.obs_as_cond else ("action", "obs")


def clip_of(sampler: SamplerConfig) -> float | None:
    """Where predictions are cut, None: nowhere."""
    return sampler.clip


def cuts(config: PolicyConfig, normalizer: Normalizer) -> list[Cut]:
    """What the clip of a policy's own sampler cuts, by the statistics in its normaliser."""
    clip = clip_of(config.sampler)
    if clip is None:
        return []
    found = (_cut(field, clip, normalizer) for field in predicted_fields(config))
    return [cut for cut in found if cut]


BEYOND: dict[str, Callable[[float], float]] = {
    "mean_std": lambda clip: 2 * float(_normal(torch.tensor(-clip))),
    "quantiles": lambda clip: 2 * float(_normal(torch.tensor(-clip * 2.326348))),
    "quantile10": lambda clip: 2 * float(_normal(torch.tensor(-clip * 1.281552))),
}
"""Share of normally distributed numbers beyond a clip; other modes map them to [-1, 1], or not."""


def _cut(field: str, clip: float, normalizer: Normalizer) -> Cut | None:
    if mode := normalizer.modes.get(field):
        share = BEYOND[mode](clip) if mode in BEYOND else 0.0
        return Cut(field, clip, float("nan"), share, mode) if share > TOLERANCE else None
    return _cut_of_map(field, clip, normalizer)


def _cut_of_map(field: str, clip: float, normalizer: Normalizer) -> Cut | None:
    params = normalizer.params_dict[field]
    stats = params["input_stats"]
    ends = [normalizer.normalize(field, stats[name]).abs() for name in ("min", "max")]
    reach = torch.maximum(*ends)
    beyond = reach > clip * (1 + TOLERANCE)
    if not bool(beyond.any()):
        return None
    mean = normalizer.normalize(field, stats["mean"])
    std = (stats["std"] * params["scale"].abs()).clamp(min=1e-12)
    outside = _normal((-clip - mean) / std) + _normal((mean - clip) / std)
    share = torch.where(beyond, outside, torch.zeros_like(outside)).mean()
    return Cut(field, clip, float(reach.max()), float(share))


def _normal(z: Tensor) -> Tensor:
    """The standard normal distribution's share below z."""
    share: Tensor = torch.special.ndtr(z.double())
    return share
