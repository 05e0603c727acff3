"""Small policies that see images, with drawn weights; and a ResNet by functions of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies import DiffusionPolicy, NetworkConfig, PolicyConfig, SamplerConfig, UnetConfig
from policies.encoders.config import EncoderConfig

ACT, TO = 2, 2
ARRAYS = {"image.top": [3, 48, 44], "state": [4], "image.wrist": [3, 42, 40]}
SAMPLER = SamplerConfig(steps=4, num_train_timesteps=20, timestep_spacing="leading")


def encoder_config(**settings: Any) -> EncoderConfig:
    given = {"arrays": ARRAYS, "crop": [40, 37], "feature_dim": 6, "n_keypoints": 4}
    return EncoderConfig(**{**given, **settings})


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic drawn, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not name.endswith(("pos_grid", "mask")):
            fan = value[0].numel() if value.ndim > 1 else 1
            noise = torch.randn(value.shape, generator=generator) / fan**0.5
            if name.endswith(("running_var", "scale")):
                noise = 1 + 0.1 * noise.abs()
            elif value.ndim == 1 and name.endswith("weight"):
                noise = 1 + 0.1 * noise
            value.copy_(noise)
    return module


def image_policy(
    network: str = "unet", aliases: Mapping[str, str] | None = None, **settings: Any
) -> DiffusionPolicy:
    """A policy of two cameras and four numbers."""
    encoder = encoder_config(**settings)
    dim = encoder.out_dim
    sizes: Any = {
        "unet": lambda: UnetConfig(
            ACT, 8, TO, "global", dim, [8, 16], 8, n_groups=4, oa_step_convention=True
        ),
        "transformer": lambda: NetworkConfig(
            ACT, ACT, 8, TO, dim, n_layer=2, n_head=2, n_emb=16, causal_attn=True
        ),
    }[network]()
    config = PolicyConfig(
        sizes, dim, ACT, 4, sampler=SAMPLER, encoder=encoder, aliases=dict(aliases or {})
    )
    policy = DiffusionPolicy(config)
    drawn(policy)
    return policy.eval()


def observation(
    n: int, arrays: Mapping[str, list[int]] | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """(n, TO, ...) of each array; images uint8."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(0, 256, (n, TO, *shape), generator=generator, dtype=torch.uint8)
        if len(shape) == 3
        else torch.randn((n, TO, *shape), generator=generator)
        for name, shape in (arrays or ARRAYS).items()
    }


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def normed(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """A batch norm by its running statistics, else a norm over groups of 16 channels."""
    if f"{name}.running_mean" in w:
        mean, var = (w[f"{name}.running_{kind}"][:, None, None] for kind in ("mean", "var"))
        x = (x - mean) / (var + 1e-5).sqrt()
    else:
        groups = x.reshape(len(x), -1, 16 * x.shape[2] * x.shape[3])
        groups = groups - groups.mean(2, keepdim=True)
        x = (groups / (groups.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def resnet(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(B, C, H, W) -> the feature map, from weights by name alone."""
    x = F.relu(normed(w, "1", F.conv2d(x, w["0.weight"], stride=2, padding=3)))
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 2)
    blocks = sorted({tuple(name.split(".")[:2]) for name in w if name[0] in "4567"})
    for stage, index in blocks:
        name, stride = f"{stage}.{index}", 2 if (stage, index) in {(s, "0") for s in "567"} else 1
        last = 3 if f"{name}.conv3.weight" in w else 2
        out = x
        for i in range(1, last + 1):
            weight = w[f"{name}.conv{i}.weight"]
            step = stride if i == (2 if last == 3 else 1) else 1
            out = F.conv2d(out, weight, stride=step, padding=weight.shape[2] // 2)
            out = normed(w, f"{name}.bn{i}", out)
            out = F.relu(out) if i < last else out
        if f"{name}.downsample.0.weight" in w:
            x = F.conv2d(x, w[f"{name}.downsample.0.weight"], stride=stride)
            x = normed(w, f"{name}.downsample.1", x)
        x = F.relu(out + x)
    return x
