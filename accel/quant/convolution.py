"""Convolutions as linear layers over patches, so that one rounding does both.

A convolution is a linear layer on the patch of its input below each of its outputs. A "token" of
its statistics is a patch: of an image, K is channels x height x width of the kernel; of a
trajectory, K is kernel x channels, position by position, as the fused engine's rows lie in memory.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import QuantisedLinear

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d
ENCODER, DENOISER = "encoder.", "model."
"""The images' part of a policy and its network, by the names of their attributes."""
UNUSED = "model.local_cond_encoder.1."
"""The second of a published UNet's two local encoders, which it never calls."""
CHANNELS = 32
"""Of a trajectory's features, a multiple of which lies in memory without gaps on every CPU."""


def is_covered(model: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether it is one of a policy's convolutions that can be quantised.

    That is without groups, padded with zeros, and either over images, in the encoder, or over time,
    in the network, from `CHANNELS` channels or a multiple of them.

    A policy says by `encode` and `denoise` that its encoder is of observations. Other models have
    parts of that name too, which take images one by one or read the weights of their layers.
    """
    if not all(callable(getattr(model, stage, None)) for stage in ("encode", "denoise")):
        return False
    if type(module) is nn.Conv2d:
        return name.startswith(ENCODER) and _is_plain(module)
    if type(module) is nn.Conv1d:
        whole = module.in_channels % CHANNELS == 0 and module.dilation == (1,)
        used = name.startswith(DENOISER) and not name.startswith(UNUSED)
        return used and whole and _is_plain(module)
    return False


def _is_plain(conv: Convolution) -> bool:
    return conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


class Flattened(nn.Linear):
    """A convolution's weight as that of a linear layer, (N, K)."""

    def __init__(self, conv: Convolution) -> None:
        nn.Module.__init__(self)
        weight = conv.weight.detach()
        weight = (weight.mT if isinstance(conv, nn.Conv1d) else weight).flatten(1)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), requires_grad=False)
        self.register_parameter("bias", bias)


def patches(conv: Convolution, x: Tensor) -> Tensor:
    """(B, C, H, W) or (B, C, T) -> (B * places, K), in the order of the output."""
    unfolded = _over_time if isinstance(conv, nn.Conv1d) else _over_image
    return unfolded(x, conv).flatten(0, 1)  # type: ignore[arg-type]


def _over_image(x: Tensor, conv: nn.Conv2d | QuantisedConv2d) -> Tensor:
    """(B, C, H, W) -> (B, places, C * height * width)."""
    padding = conv.padding
    assert not isinstance(padding, str)
    return F.unfold(x, conv.kernel_size, conv.dilation, padding, conv.stride).transpose(1, 2)


def _over_time(x: Tensor, conv: nn.Conv1d | QuantisedConv1d) -> Tensor:
    """(B, C, T) -> (B, places, kernel * C)."""
    (taps,), (stride,), padding = conv.kernel_size, conv.stride, conv.padding
    assert not isinstance(padding, str)
    padded = F.pad(x.transpose(1, 2), (0, 0, padding[0], padding[0]))
    length = padded.shape[1] - taps + 1
    return torch.stack([padded[:, i : i + length : stride] for i in range(taps)], 2).flatten(2)


class QuantisedConv2d(QuantisedLinear):
    """A quantised linear layer on the patches of images, with a convolution's geometry."""

    kernel_size: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    stride: tuple[int, int]

    @property
    def shown_shape(self) -> tuple[int, ...]:
        height, width = self.kernel_size
        return self.out_features, self.in_features // (height * width), height, width

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, H', W') in the dtype of x."""
        height, width = (
            (
                x.shape[2 + i]
                + 2 * self.padding[i]
                - self.dilation[i] * (self.kernel_size[i] - 1)
                - 1
            )
            // self.stride[i]
            + 1
            for i in range(2)
        )
        out = super().forward(_over_image(x, self))
        return out.transpose(1, 2).reshape(len(x), self.out_features, height, width).contiguous()


class QuantisedConv1d(QuantisedLinear):
    """A quantised linear layer on stretches of a trajectory, with a convolution's geometry."""

    kernel_size: tuple[int]
    dilation: tuple[int]
    padding: tuple[int]
    stride: tuple[int]

    @property
    def shown_shape(self) -> tuple[int, ...]:
        (taps,) = self.kernel_size
        return self.out_features, self.in_features // taps, taps

    @property
    def out_channels(self) -> int:
        """As of the convolution."""
        return self.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, N, T') in the dtype of x."""
        return super().forward(_over_time(x, self)).transpose(1, 2).contiguous()


KINDS: dict[type, type[QuantisedLinear]] = {nn.Conv1d: QuantisedConv1d, nn.Conv2d: QuantisedConv2d}


def quantised(layer: QuantisedLinear, module: nn.Module) -> QuantisedLinear:
    """What stands for a module of a model: the layer, or the layer on patches.

    The latter takes the layer's tensors, and the module's geometry.
    """
    kind = KINDS.get(type(module))
    if kind is None:
        return layer
    made = kind(layer.spec)
    made.source_dtype, made.executor = layer.source_dtype, layer.executor
    made._buffers.update(layer._buffers)
    for name in ("kernel_size", "dilation", "padding", "stride"):
        setattr(made, name, getattr(module, name))
    return made
