"""From a feature map to a vector: expected positions of features, or their average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class SpatialSoftmax(nn.Module):
    """Where in the image each of some features is, on average (Finn et al. 2016, section IV.A).

    A 1 x 1 convolution makes `n_keypoints` maps; a softmax over each is a distribution over
    positions, from (-1, -1) at the upper left pixel to (1, 1) at the lower right one, and its mean
    (x, y) is what comes out. Names of parameters and of the buffer are LeRobot's. robomimic has
    the same with `pos_x` and `pos_y` for the columns of `pos_grid`, and a temperature that divides
    the maps, which is the same as dividing the convolution's weight and bias by it.
    """

    pos_grid: Tensor

    def __init__(self, map_shape: tuple[int, int, int], n_keypoints: int) -> None:
        super().__init__()
        channels, height, width = map_shape
        self.nets = nn.Conv2d(channels, n_keypoints, 1)
        x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
        grid = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
        self.register_buffer("pos_grid", torch.from_numpy(grid))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 n_keypoints): x and y of the first keypoint, of the second..."""
        where = nn.functional.softmax(self.nets(maps).flatten(2), dim=-1)
        out: Tensor = (where @ self.pos_grid).flatten(1)
        return out


class AveragePool(nn.Module):
    """The mean of each channel."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        return maps.mean((2, 3))


POOL_LAYERS: dict[str, Callable[[tuple[int, int, int], int], Any]] = {
    "spatial_softmax": SpatialSoftmax,
    "average": lambda map_shape, n_keypoints: AveragePool(),
}
