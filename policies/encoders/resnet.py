"""ResNets without their classifier (He et al. 2016), with strides as torchvision has them.

The names of parameters are those of `nn.Sequential(*list(resnet.children())[:-2])`, which LeRobot
and robomimic share: `0` the first convolution, `1` its norm, `4` to `7` the stages, in them
`M.conv1`, `M.bn1` and so on, and `M.downsample.0`, `.1` where a block changes sizes. Norms of both
kinds are called `bn`; only those of batches have `running_mean` and `running_var`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from .config import BACKBONES, WIDTHS

CHANNELS_A_GROUP = 16
MakeNorm = Callable[[int], nn.Module]
Layers = tuple[tuple[int, bool, int], ...]


def group_norm(n: int) -> nn.Module:
    return nn.GroupNorm(n // CHANNELS_A_GROUP, n)


NORM_LAYERS: dict[str, MakeNorm] = {"batch": nn.BatchNorm2d, "group": group_norm}


class Block(nn.Module):
    """Convolutions with norms, and a shortcut (fig. 5 of the paper).

    The stride of a bottleneck is that of its 3 x 3 convolution, as in torchvision; in the paper it
    is that of the first.
    """

    def __init__(self, layers: Layers, n_in: int, width: int, stride: int, norm: MakeNorm) -> None:
        super().__init__()
        self.n_layers = len(layers)
        n = n_in
        for i, (kernel, strided, wider) in enumerate(layers, start=1):
            step = stride if strided else 1
            conv = nn.Conv2d(n, n := width * wider, kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", norm(n))
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n, 1, stride, bias=False), norm(n))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) -> (B, n_out, H / stride, W / stride), sizes rounded up."""
        out = x
        for i in range(1, self.n_layers + 1):
            conv, norm = self.get_submodule(f"conv{i}"), self.get_submodule(f"bn{i}")
            out = norm(conv(out))
            if i < self.n_layers:
                out = nn.functional.relu(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return nn.functional.relu(out + shortcut)


def trunk(backbone: str, n_channels: int, norm: str) -> nn.Sequential:
    """(B, n_channels, H, W) -> (B, C, H / 32, W / 32), sizes rounded up.

    Args:
        backbone: a name in `BACKBONES`.
        n_channels: of an image.
        norm: a name in `NORM_LAYERS`.
    """
    layers, depths = BACKBONES[backbone]
    make = NORM_LAYERS[norm]
    block: Any = partial(Block, layers, norm=make)
    n = WIDTHS[0]
    parts: list[nn.Module] = [
        nn.Conv2d(n_channels, n, 7, 2, 3, bias=False),
        make(n),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
        blocks = []
        for i in range(depth):
            blocks.append(block(n, width, 2 if stage and not i else 1))
            n = width * layers[-1][2]
        parts.append(nn.Sequential(*blocks))
    return nn.Sequential(*parts)
