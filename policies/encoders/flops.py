"""What encoding costs."""

from __future__ import annotations

from collections.abc import Iterator

from skipstep.observations import is_image

from .config import BACKBONES, WIDTHS, EncoderConfig

STEM_KERNEL = 7


def half(n: int) -> int:
    """Positions of a convolution with stride 2 and padding: half of them, rounded up."""
    return -(-n // 2)


def trunk_flops(backbone: str, n_channels: int, height: int, width: int) -> int:
    """Of one image of that size: the sum of `2 k^2 C_in C_out H_out W_out` over convolutions."""
    return sum(
        2 * kernel**2 * n_in * n_out * h * w
        for kernel, n_in, n_out, h, w in _convolutions(backbone, n_channels, height, width)
    )


def _convolutions(
    backbone: str, n_channels: int, height: int, width: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """(kernel, channels in, channels out, height and width of what comes out) of each."""
    layers, depths = BACKBONES[backbone]
    n, h, w = WIDTHS[0], half(height), half(width)
    yield STEM_KERNEL, n_channels, n, h, w
    h, w = half(h), half(w)  # of the largest values
    for stage, (wide, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
        for i in range(depth):
            entered, strided = (n, h, w), bool(stage) and i == 0
            for kernel, strides, wider in layers:
                if strided and strides:
                    h, w = half(h), half(w)
                yield kernel, n, wide * wider, h, w
                n = wide * wider
            if strided or entered[0] != n:
                yield 1, entered[0], n, h, w


def encoder_flops(config: EncoderConfig) -> int:
    """FLOPs of one encoded step: of all cameras, 2 per multiply-add.

    Convolutions (borders count like the rest), the linear layer `2 n_in n_out`, and of a spatial
    softmax the 1 x 1 convolution `2 C K H W` and the mean position `4 K H W` of K keypoints. Not
    counted: norms, activations, the softmax, averages, resizing.
    """
    return sum(_camera_flops(config, name) for name in config.arrays if is_image(name))


def _camera_flops(config: EncoderConfig, camera: str) -> int:
    total = trunk_flops(config.backbone, *config.seen(camera))
    channels, height, width = config.map_shape(camera)
    if config.pool == "spatial_softmax":
        total += config.n_keypoints * height * width * (2 * channels + 4)
    if config.feature_dim is not None:
        total += 2 * config.pooled_dim(camera) * config.feature_dim
    return total
