"""What a policy that is trained sees: the encoder of a task's images, and how pixels are scaled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from policies.data.normalizer import Normalizer
from policies.encoders.config import EncoderConfig
from skipstep.observations import ObservationSpec

log = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of [0, 1]
UNUSED = {"crop_ratio": ("crop", None), "n_keypoints": ("pool", "spatial_softmax")}
"""Settings that mean something with one value of another setting alone."""
OURS = ("crop_ratio", "normalizer")  # the others are an `EncoderConfig`'s


@dataclass
class EncoderChoice:
    """How images are encoded, see `policies.encoders.config.EncoderConfig`.

    Attributes:
        crop: [height, width]; None: `crop_ratio` of what is there once it is resized.
        crop_ratio: of height and width; 1: nothing is cut off.
        normalizer: a name in `PIXELS`.
    """

    backbone: str = "resnet18"
    norm: str = "group"
    resize: list[int] | None = None
    antialias: bool = True
    crop: list[int] | None = None
    crop_ratio: float = 0.9
    pool: str = "spatial_softmax"
    n_keypoints: int = 32
    feature_dim: int | None = 64
    relu: bool = False
    shared: bool = False
    normalizer: str = "range"

    def __post_init__(self) -> None:
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(
                f"runner.encoder.crop_ratio must be above 0 and at most 1, got {self.crop_ratio}"
            )
        if self.normalizer not in PIXELS:
            raise ValueError(
                f"runner.encoder.normalizer must be one of {', '.join(PIXELS)}, "
                f"got {self.normalizer!r}"
            )

    def config(self, spec: ObservationSpec) -> EncoderConfig:
        """The encoder of a task's observations.

        Raises:
            ValueError: the settings do not fit each other, or the images.
        """
        arrays = {name: list(array.shape) for name, array in spec.items()}
        if not spec.images:
            return EncoderConfig(arrays)
        given: dict[str, Any] = {k: v for k, v in asdict(self).items() if k not in OURS}
        given["crop"] = self.crop or self._share(spec)
        try:
            config = EncoderConfig(arrays, **given)
        except ValueError as error:
            raise ValueError(f"runner.{error}") from error
        self._say_what_is_unused()
        for name in config.cameras:
            if self.pool == "spatial_softmax" and config.map_shape(name)[1:] == (1, 1):
                height, width = config.seen(name)[1:]
                log.warning(
                    "of %s of %d x %d px runner.encoder.pool=spatial_softmax sees nothing, its "
                    "features have one place: runner.encoder.pool=average, or larger images",
                    *(name, height, width),
                )
        return config

    def _say_what_is_unused(self) -> None:
        for name, (other, value) in UNUSED.items():
            if getattr(self, other) != value and getattr(self, name) != getattr(type(self), name):
                log.warning(
                    "runner.encoder.%s=%s does nothing with runner.encoder.%s=%s",
                    *(name, getattr(self, name), other, getattr(self, other)),
                )

    def _share(self, spec: ObservationSpec) -> list[int] | None:
        if self.crop_ratio == 1:
            return None
        sizes = {tuple(self.resize or spec[name].shape[1:]) for name in spec.images}
        if len(sizes) > 1:
            raise ValueError(
                f"runner.encoder.crop_ratio={self.crop_ratio:g} needs images of one size, got "
                f"{' and '.join(f'{h} x {w}' for h, w in sorted(sizes))}: set "
                "runner.encoder.resize or runner.encoder.crop"
            )
        return [max(1, round(n * self.crop_ratio)) for n in sizes.pop()]


@torch.no_grad()
def fit_pixels(normalizer: Normalizer, name: str, choice: str) -> None:
    """Set the map of an image, whose pixels are in [0, 1], without a look at the data."""
    params = normalizer.params(name)
    scale, offset = PIXELS[choice](len(params["scale"]))
    statistics = {"min": 0.0, "max": 1.0, "mean": 0.5, "std": (1 / 12) ** 0.5}  # of any picture
    for key, value in (("scale", scale), ("offset", offset)):
        params[key].copy_(torch.tensor(value).reshape(-1, 1, 1))
    for key, number in statistics.items():
        params["input_stats"][key].fill_(number)


def _range(n_channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """To [-1, 1], as diffusion_policy and robomimic."""
    return [2.0] * n_channels, [-1.0] * n_channels


def _imagenet(n_channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """By the mean and deviation of ImageNet, as LeRobot."""
    if n_channels != len(IMAGENET_MEAN):
        raise ValueError(
            f"runner.encoder.normalizer=imagenet needs {len(IMAGENET_MEAN)} channels, "
            f"got {n_channels}"
        )
    pairs = list(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
    return [1 / std for _, std in pairs], [-mean / std for mean, std in pairs]


PIXELS: dict[str, Callable[[int], tuple[Sequence[float], Sequence[float]]]] = {
    "range": _range,
    "imagenet": _imagenet,
}
"""Number of channels -> scale and offset of each."""
