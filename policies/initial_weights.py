"""Weights that a training begins with; all randomness is the generator's."""

from __future__ import annotations

import math

import torch
from torch import nn

MINGPT_STD = 0.02
CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


@torch.no_grad()
def mingpt_weights(model: nn.Module, generator: torch.Generator) -> None:
    """MinGPT's initialisation: matrices and positions N(0, 0.02), biases 0, norms 1 and 0."""
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif id(parameter) in norms:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, MINGPT_STD, generator=generator)


@torch.no_grad()
def torch_weights(model: nn.Module, generator: torch.Generator) -> None:
    """What torch's linear layers and convolutions draw by themselves; norms 1 and 0.

    Weights and biases are uniform within 1 / sqrt(fan_in).
    """
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, NORMS) and layer.weight is not None:
            layer.weight.fill_(1.0)
            layer.bias.zero_()


@torch.no_grad()
def encoder_weights(encoder: nn.Module, generator: torch.Generator) -> None:
    """An encoder of images from nothing, as torchvision's ResNets begin.

    Convolutions without biases, those of a ResNet, are normally distributed with a variance of 2 /
    fan_out (He et al. 2015); everything else is as in `torch_weights`.
    """
    torch_weights(encoder, generator)
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            fan_out = layer.weight[:, 0].numel()
            layer.weight.normal_(0.0, math.sqrt(2 / fan_out), generator=generator)
