"""Settings of an observation encoder, and the sizes that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from skipstep.observations import IMAGE, is_image

# of one block, layer by layer: kernel, whether the block's stride is here, widening
BASIC = ((3, True, 1), (3, False, 1))
BOTTLENECK = ((1, False, 1), (3, True, 1), (1, False, 4))
BACKBONES = {  # layers of a block, blocks of each stage (He et al. 2016, table 1)
    "resnet18": (BASIC, (2, 2, 2, 2)),
    "resnet34": (BASIC, (3, 4, 6, 3)),
    "resnet50": (BOTTLENECK, (3, 4, 6, 3)),
}
WIDTHS = (64, 128, 256, 512)  # of the stages
NORMS = ("batch", "group")
POOLS = ("spatial_softmax", "average")
NOT_ARRAYS = ("action", "obs")  # names with another meaning where arrays have theirs
REDUCTION = 32  # a feature map is this much smaller than its image
MOST = {"numbers": 2**20, "pixels": 2**13, "n_keypoints": 2**12, "feature_dim": 2**14}
MOST_CAMERAS = 64


@dataclass
class EncoderConfig:
    """How the arrays of an observation become the numbers of one step.

    Numbers enter as they are (normalised). An image is resized, cropped, goes through a ResNet
    without its classifier, is pooled, and through a linear layer. Everything is joined in the
    order of `arrays`.

    Attributes:
        arrays: by our names, the shape of one step: [D] of numbers, [C, H, W] of `image.<camera>`;
            a mapping, in order. Without images nothing is learnt here.
        backbone: resnet18, resnet34 or resnet50.
        norm: batch, with running statistics; group, of 16 channels each.
        resize: [height, width] that images are brought to first (bilinear); None: as they are.
        antialias: of the resizing, as torchvision does by default since 0.17; false: as before.
        crop: [height, width] that is cut out then: from the center, in training mode from anywhere
            (another place for each image); None: nothing is.
        pool: spatial_softmax, or the average over the feature map.
        n_keypoints: of spatial_softmax, two numbers each.
        feature_dim: numbers that a linear layer makes of what is pooled; None: there is none.
        relu: whether that layer's negative numbers become 0.
        shared: one network for all cameras, or one for each.

    Example:
        >>> arrays = {"image.top": [3, 96, 96], "state": [2]}
        >>> config = EncoderConfig(arrays, crop=[84, 84], feature_dim=64)
        >>> config.seen("image.top"), config.map_shape("image.top"), config.out_dim
        ((3, 84, 84), (512, 3, 3), 66)
    """

    arrays: dict[str, list[int]]
    backbone: str = "resnet18"
    norm: str = "batch"
    resize: list[int] | None = None
    antialias: bool = True
    crop: list[int] | None = None
    pool: str = "spatial_softmax"
    n_keypoints: int = 32
    feature_dim: int | None = None
    relu: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.arrays, Mapping) or not self.arrays:
            raise ValueError(f"encoder.arrays must name arrays, got {self.arrays!r}")
        self.arrays = {name: _shape(name, shape) for name, shape in self.arrays.items()}
        for name, allowed in (("backbone", BACKBONES), ("norm", NORMS), ("pool", POOLS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"encoder.{name} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, name)!r}"
                )
        for name in ("antialias", "relu", "shared"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"encoder.{name} must be true or false, got {getattr(self, name)!r}"
                )
        for name in ("resize", "crop"):
            setattr(self, name, _size(name, getattr(self, name)))
        for name, or_null in (("n_keypoints", ""), ("feature_dim", " or null")):
            value = getattr(self, name)
            if not (_whole(value, MOST[name]) or (or_null and value is None)):
                raise ValueError(
                    f"encoder.{name} must be from 1 to {MOST[name]}{or_null}, got {value!r}"
                )
        if len(self.cameras) > MOST_CAMERAS:
            raise ValueError(
                f"encoder.arrays must have at most {MOST_CAMERAS} images, got {len(self.cameras)}"
            )
        self._check_sizes()

    def _check_sizes(self) -> None:
        if self.relu and self.feature_dim is None:
            raise ValueError("encoder.relu=true needs a linear layer: encoder.feature_dim is null")
        for name in self.cameras:
            height, width = self.resize or self.arrays[name][1:]
            if self.crop and (self.crop[0] > height or self.crop[1] > width):
                raise ValueError(
                    f"encoder.crop must fit into {name}, which is {height} x {width}, "
                    f"got {self.crop[0]} x {self.crop[1]}"
                )
        first = self.cameras[:1]
        for name in self.cameras if self.shared else ():
            if self.seen(name) != self.seen(first[0]):
                raise ValueError(
                    f"encoder.shared=true needs images of one size, got {self.seen(first[0])} of "
                    f"{first[0]} and {self.seen(name)} of {name} (after resize and crop)"
                )

    def settings(self) -> dict[str, Any]:
        """By name, as they are written down and hashed."""
        return asdict(self)

    @property
    def cameras(self) -> list[str]:
        """Names of the images, in order."""
        return [name for name in self.arrays if is_image(name)]

    @property
    def n_nets(self) -> int:
        """Networks for images."""
        return min(1, len(self.cameras)) if self.shared else len(self.cameras)

    def seen(self, camera: str) -> tuple[int, int, int]:
        """(C, H, W) of what the network sees of a camera."""
        channels, height, width = self.arrays[camera]
        height, width = self.crop or self.resize or (height, width)
        return channels, height, width

    def map_shape(self, camera: str) -> tuple[int, int, int]:
        """(C, H, W) of the feature map that the backbone makes of a camera's image."""
        _, height, width = self.seen(camera)
        wider = BACKBONES[self.backbone][0][-1][2]
        return WIDTHS[-1] * wider, -(-height // REDUCTION), -(-width // REDUCTION)

    def pooled_dim(self, camera: str) -> int:
        """Numbers of a pooled feature map."""
        return 2 * self.n_keypoints if self.pool == "spatial_softmax" else self.map_shape(camera)[0]

    @property
    def out_dim(self) -> int:
        """Numbers of one encoded step."""
        dims = (
            (self.feature_dim or self.pooled_dim(name)) if is_image(name) else shape[0]
            for name, shape in self.arrays.items()
        )
        return sum(dims)


def _whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _shape(name: object, shape: Any) -> list[int]:
    if not isinstance(name, str) or name in ("", IMAGE, *NOT_ARRAYS):
        raise ValueError(f"encoder.arrays holds {name!r}, which is not a name of an array")
    n, allowed, most = (3, "[C, H, W]", "pixels") if is_image(name) else (1, "[D]", "numbers")
    if not _are_sizes(shape, n, MOST[most]):
        raise ValueError(
            f"encoder.arrays.{name} must be {allowed}, each up to {MOST[most]}, got {shape!r}"
        )
    return list(shape)


def _size(name: str, size: Any) -> list[int] | None:
    if size is None:
        return None
    if not _are_sizes(size, 2, MOST["pixels"]):
        raise ValueError(
            f"encoder.{name} must be [height, width], each up to {MOST['pixels']}, or null, "
            f"got {size!r}"
        )
    return list(size)


def _are_sizes(value: object, n: int, most: int) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == n
        and all(_whole(size, most) for size in value)
    )
