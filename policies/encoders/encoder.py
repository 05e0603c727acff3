"""The encoder: the arrays of an observation, normalised, to the numbers of one step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from skipstep.observations import is_image

from .config import EncoderConfig
from .pooling import POOL_LAYERS
from .resnet import trunk


def center(size: int, cropped: int) -> int:
    """Where a crop from the center begins; halves become even numbers, as in torchvision."""
    return round((int(size) - cropped) / 2)


def center_crop(images: Tensor, size: list[int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size)."""
    top, left = (center(n, m) for n, m in zip(images.shape[2:], size, strict=True))
    return images[:, :, top : top + size[0], left : left + size[1]]


def random_crop(images: Tensor, size: list[int]) -> Tensor:
    """As `center_crop`, from another place in each image, by torch's default generator."""
    cut = []
    for image in images:
        top, left = (
            int(torch.randint(n - m + 1, ())) for n, m in zip(image.shape[1:], size, strict=True)
        )
        cut.append(image[:, top : top + size[0], left : left + size[1]])
    return torch.stack(cut)


class ImageEncoder(nn.Module):
    """One image to a vector; names of parameters are those of LeRobot's encoder."""

    def __init__(self, config: EncoderConfig, camera: str) -> None:
        super().__init__()
        self.resize, self.antialias, self.crop = config.resize, config.antialias, config.crop
        self.backbone = trunk(config.backbone, config.arrays[camera][0], config.norm)
        self.pool = POOL_LAYERS[config.pool](config.map_shape(camera), config.n_keypoints)
        self.out: nn.Module | None = None
        if config.feature_dim is not None:
            self.out = nn.Linear(config.pooled_dim(camera), config.feature_dim)
        self.relu = config.relu

    def prepared(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> what the backbone sees of them: resized, then cropped."""
        if self.resize is not None and list(images.shape[2:]) != self.resize:
            images = nn.functional.interpolate(
                images, self.resize, mode="bilinear", antialias=self.antialias
            )
        if self.crop is not None:
            images = (random_crop if self.training else center_crop)(images, self.crop)
        return images

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised -> (B, n)."""
        out: Tensor = self.pool(self.backbone(self.prepared(images)))
        out = out if self.out is None else self.out(out)
        return nn.functional.relu(out) if self.relu else out


class ObservationEncoder(nn.Module):
    """Joins the numbers of an observation and the features of its images, in the config's order.

    `nets` are the networks of the cameras in that order, or a single one for all of them.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.nets = nn.ModuleList(
            ImageEncoder(config, camera) for camera in config.cameras[: config.n_nets]
        )

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Normalised arrays (B, To, ...) by name -> (B, To, out_dim)."""
        nets = dict(zip(self.config.cameras, [*self.nets] * len(self.config.cameras), strict=False))
        parts = []
        for name in self.config.arrays:
            part = arrays[name]
            if is_image(name):
                part = nets[name](part.flatten(0, 1)).unflatten(0, part.shape[:2])
            parts.append(part)
        return torch.cat(parts, dim=-1)
