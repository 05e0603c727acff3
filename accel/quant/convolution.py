"""Convolutions of an image encoder as linear layers over patches, so that one rounding does both.

A convolution is a linear layer on the patch of the image below each of its outputs: K is channels
x height x width of the kernel. A "token" of its statistics is a patch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .linear import QuantisedLinear

ENCODER = "encoder."
"""The images' part of a policy, by the name of its attribute."""


def is_covered(model: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether it is a convolution of a policy's encoder, without groups, padded with zeros.

    A policy says by `encode` and `denoise` that its encoder is of observations. Other models have
    parts of that name too, which take images one by one or read the weights of their layers.
    """
    return (
        all(callable(getattr(model, stage, None)) for stage in ("encode", "denoise"))
        and type(module) is nn.Conv2d
        and name.startswith(ENCODER)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


class Flattened(nn.Linear):
    """A convolution's weight as that of a linear layer, (N, C * height * width); shares memory."""

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        weight = conv.weight.detach().flatten(1)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), requires_grad=False)
        self.register_parameter("bias", bias)


def patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * places, C * height * width), row by row of the output."""
    return _unfolded(x, conv).mT.flatten(0, 1)


def _unfolded(x: Tensor, conv: nn.Conv2d | QuantisedConv2d) -> Tensor:
    padding = conv.padding
    assert not isinstance(padding, str)
    return F.unfold(x, conv.kernel_size, conv.dilation, padding, conv.stride)


class QuantisedConv2d(QuantisedLinear):
    """A quantised linear layer on the patches of images, with a convolution's geometry."""

    kernel_size: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    stride: tuple[int, int]

    @classmethod
    def around(cls, layer: QuantisedLinear, conv: nn.Conv2d) -> QuantisedConv2d:
        """What `layer` is to `Flattened(conv)`, this is to `conv`; takes the layer's tensors."""
        made = cls(layer.spec)
        made.source_dtype, made.executor = layer.source_dtype, layer.executor
        for name, value in layer._buffers.items():
            made._buffers[name] = value
        for name in ("kernel_size", "dilation", "padding", "stride"):
            setattr(made, name, getattr(conv, name))
        return made

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
        out = super().forward(_unfolded(x, self).mT)
        return out.mT.reshape(len(x), self.out_features, height, width).contiguous()


def quantised(layer: QuantisedLinear, module: nn.Module) -> QuantisedLinear:
    """What stands for a module of a model: the layer, or the layer on patches."""
    return QuantisedConv2d.around(layer, module) if isinstance(module, nn.Conv2d) else layer
