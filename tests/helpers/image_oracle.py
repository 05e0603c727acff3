"""What an image checkpoint's encoder computes, by functions of torch, from its keys alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.image_checkpoints import CROP, KINDS, sequential
from tests.helpers.seeing import resnet

MEAN, DEVIATION = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
ORDER = {
    "transformer": ["image", "agent_pos"],
    "unet": ["wrist", "pos", "agent", "grip"],
    "image": ["agent", "grip", "pos"],
    "shared": ["agent", "wrist", "grip", "pos"],
}


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def mapped(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    entry = under(state, f"normalizer.params_dict.{key}.")
    return x * entry["scale"] + entry["offset"]


def cropped(x: Tensor, size: list[int]) -> Tensor:
    """From the center; of two middles the one that begins at an even pixel."""
    top, left = (
        (n - m) // 2 + ((n - m) % 2) * ((n - m) // 2 % 2)
        for n, m in zip(x.shape[2:], size, strict=True)
    )
    return x[:, :, top : top + size[0], left : left + size[1]]


def robomimic_camera(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    """(B, C, H, W) normalised and cropped -> (B, 64)."""
    net = under(state, f"obs_encoder.obs_nets.{key}.")
    maps = resnet(under(net, "backbone.nets."), x)
    maps = F.conv2d(maps, net["pool.nets.weight"], net["pool.nets.bias"]) / net["pool.temperature"]
    share = maps.flatten(2).exp()
    share = share / share.sum(2, keepdim=True)
    points = [(share * net[f"pool.{axis}"]).sum(2) for axis in ("pos_x", "pos_y")]
    flat = torch.stack(points, 2).flatten(1)
    return F.relu(flat @ net["nets.3.weight"].T + net["nets.3.bias"])


def own_camera(state: Mapping[str, Tensor], key: str, x: Tensor) -> Tensor:
    """(B, C, H, W) normalised, resized and cropped -> (B, 512)."""
    net = under(state, f"obs_encoder.key_model_map.{key}.")
    x = (x - MEAN) / DEVIATION
    return resnet({sequential(name): v for name, v in net.items()}, x).flatten(2).mean(2)


def encoded(kind: str, state: Mapping[str, Tensor], obs: Mapping[str, Tensor]) -> Tensor:
    """(B, TO, ...) by shape_meta's names -> (B, TO, n)."""
    parts = []
    for key in ORDER[kind]:
        x = obs[key].flatten(0, 1)
        if len(KINDS[kind][1][key]["shape"]) == 1:
            parts.append(mapped(state, key, x))
            continue
        x = mapped(state, key, x.float() / 255 if x.dtype == torch.uint8 else x)
        if kind == "shared":
            x = F.interpolate(x, (48, 55), mode="bilinear", align_corners=False)
        if kind in ("transformer", "image"):
            x = cropped(x, CROP)
        hybrid = kind in ("transformer", "unet")
        name = "rgb" if kind == "shared" else key
        parts.append((robomimic_camera if hybrid else own_camera)(state, name, x))
    return torch.cat(parts, 1).unflatten(0, obs[ORDER[kind][0]].shape[:2])
