"""Image checkpoints of diffusion_policy: its names and its layout, with weights by a formula.

The classes fix their ResNets (11 million numbers each), so a kind is made once a session.
"""

from __future__ import annotations

import copy
import functools
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dill
import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from policies import NetworkConfig, UnetConfig
from policies.transformer.network import DiffusionTransformer
from policies.unet.network import Unet

TO, ACT = 2, 3
SIZE, CROP = [45, 51], [36, 44]  # odd differences: where the center is rounded shows
PACKAGE = "diffusion_policy"
SCHEDULER = {
    **{"_target_": "diffusers.schedulers.scheduling_ddpm.DDPMScheduler"},
    **{"num_train_timesteps": 10, "beta_start": 0.0001, "beta_end": 0.02},
    **{"beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small"},
    **{"clip_sample": True, "prediction_type": "epsilon"},
}
UNET: dict[str, Any] = {"diffusion_step_embed_dim": 16, "down_dims": [16, 32], "kernel_size": 3}
TRANSFORMER: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_emb": 16}
CLASSES = {
    "unet_hybrid": "DiffusionUnetHybridImagePolicy",
    "transformer_hybrid": "DiffusionTransformerHybridImagePolicy",
    "unet_image": "DiffusionUnetImagePolicy",
}
MODULES = {
    "unet_hybrid": "diffusion_unet_hybrid_image_policy",
    "transformer_hybrid": "diffusion_transformer_hybrid_image_policy",
    "unet_image": "diffusion_unet_image_policy",
}
DUMMIES = {
    "unet_hybrid": ("", "mask_generator."),
    "transformer_hybrid": ("", "mask_generator.", "model."),
    "unet_image": ("", "mask_generator.", "obs_encoder."),
}
RGB = {"shape": [3, *SIZE], "type": "rgb"}
PUSHT = {"image": RGB, "agent_pos": {"shape": [2], "type": "low_dim"}}
MIXED = {"wrist": RGB, "pos": {"shape": [3]}, "agent": RGB, "grip": {"shape": [2]}}
# kind -> class, shape_meta.obs, settings of cfg.policy, of its obs_encoder
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "transformer": (
        "transformer_hybrid",
        PUSHT,
        {**TRANSFORMER, "crop_shape": CROP, "obs_encoder_group_norm": True},
        {},
    ),
    "unet": ("unet_hybrid", MIXED, {**UNET, "crop_shape": None}, {}),
    "image": (
        "unet_image",
        {"pos": MIXED["pos"], "agent": RGB, "grip": MIXED["grip"]},
        UNET,
        {"crop_shape": CROP, "use_group_norm": True, "imagenet_norm": True},
    ),
    "shared": (
        "unet_image",
        MIXED,
        UNET,
        {
            **{"resize_shape": [48, 55], "crop_shape": CROP, "random_crop": False},
            **{"use_group_norm": True, "share_rgb_model": True, "imagenet_norm": True},
        },
    ),
}


def cfg_of(
    kind: str, policy: Mapping[str, Any] | None = None, encoder: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The configuration of a training, with interpolations where the published one has them."""
    name, obs, own, seen = KINDS[kind]
    hybrid = {"eval_fixed_crop": True, "obs_encoder_group_norm": False}
    package = f"{PACKAGE}.model.vision"
    encodes = {
        "_target_": f"{package}.multi_image_obs_encoder.MultiImageObsEncoder",
        "shape_meta": "${shape_meta}",
        "rgb_model": {
            "_target_": f"{package}.model_getter.get_resnet",
            **{"name": "resnet18", "weights": None},
        },
        **seen,
        **(encoder or {}),
    }
    passed = ("shape_meta", "horizon", "n_obs_steps")
    return {
        "name": f"train_diffusion_{name}",
        "task_name": "${task.name}",
        "shape_meta": "${task.shape_meta}",
        "horizon": 8,
        "n_obs_steps": TO,
        "n_action_steps": 4,
        "n_latency_steps": 0,
        "past_action_visible": False,
        "policy": {
            "_target_": f"{PACKAGE}.policy.{MODULES[name]}.{CLASSES[name]}",
            **{name: f"${{{name}}}" for name in passed},
            "n_action_steps": "${eval:'${n_action_steps}+${n_latency_steps}'}",
            "num_inference_steps": 10,
            "noise_scheduler": SCHEDULER,
            **({"obs_encoder": encodes} if name == "unet_image" else hybrid),
            **own,
            **(policy or {}),
        },
        "training": {"use_ema": True},
        "task": {
            **{"name": "pusht_image", "abs_action": True},
            "shape_meta": {"obs": copy.deepcopy(obs), "action": {"shape": [ACT]}},
        },
    }


def value(name: str, shape: tuple[int, ...]) -> Tensor:
    """A weight by its name: of variance 1 / fan-in, about 1 where it scales, small where it adds.

    numpy never changes what `RandomState` draws.
    """
    drawn = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shape)
    if len(shape) > 1:
        drawn *= (3 / np.prod(shape[1:])) ** 0.5
    elif name.endswith(("running_var", "weight")):
        drawn = 1 + 0.2 * drawn
    else:
        drawn *= 0.1
    return torch.from_numpy(drawn.astype(np.float32))


def resnet_shapes(groups: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """ResNet-18 by torchvision's names, without its classifier."""

    def norm(name: str, n: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for part in ("weight", "bias", *(() if groups else ("running_mean", "running_var"))):
            yield f"{name}.{part}", (n,)
        if not groups:
            yield f"{name}.num_batches_tracked", ()

    yield "conv1.weight", (64, 3, 7, 7)
    yield from norm("bn1", 64)
    n = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            at = f"layer{stage}.{block}"
            yield f"{at}.conv1.weight", (width, n, 3, 3)
            yield from norm(f"{at}.bn1", width)
            yield f"{at}.conv2.weight", (width, width, 3, 3)
            yield from norm(f"{at}.bn2", width)
            if n != width:
                yield f"{at}.downsample.0.weight", (width, n, 1, 1)
                yield from norm(f"{at}.downsample.1", width)
            n = width


def sequential(name: str) -> str:
    """torchvision's name -> that in `nn.Sequential(*resnet.children())`."""
    first, _, rest = name.partition(".")
    place = {"conv1": "0", "bn1": "1"}.get(first) or str(int(first.removeprefix("layer")) + 3)
    return f"{place}.{rest}"


@functools.cache
def state_of(kind: str) -> dict[str, Tensor]:
    """The state dict of a kind, as its class names it; do not change it."""
    name, obs, own, seen = KINDS[kind]
    cameras = [key for key, array in obs.items() if "type" in array and array["type"] == "rgb"]
    shared = bool(seen.get("share_rgb_model"))
    state = {f"{module}_dummy_variable": torch.empty(0) for module in DUMMIES[name]}
    for camera in ["rgb"] if shared else cameras:
        if name == "unet_image":
            state |= _own_camera(camera, bool(seen.get("use_group_norm")) and not shared)
        else:
            sizes = own["crop_shape"] or SIZE
            state |= robomimic_camera(camera, "obs_encoder_group_norm" in own, sizes)
    features = len(cameras) * (512 if name == "unet_image" else 64)
    dim = features + sum(array["shape"][0] for array in obs.values() if len(array["shape"]) == 1)
    state |= {f"model.{key}": tensor for key, tensor in network_weights(name, dim)}
    return state | dict(_maps(obs))


def _own_camera(camera: str, groups: bool) -> dict[str, Tensor]:
    begin = f"obs_encoder.key_model_map.{camera}."
    return {begin + name: value(camera + name, shape) for name, shape in resnet_shapes(groups)}


def robomimic_camera(camera: str, groups: bool, size: list[int]) -> dict[str, Tensor]:
    begin = f"obs_encoder.obs_nets.{camera}."
    net = {sequential(k): value(camera + k, shape) for k, shape in resnet_shapes(groups)}
    height, width = (-(-n // 32) for n in size)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    pool = {
        "temperature": torch.ones(1),
        "pos_x": torch.from_numpy(x.reshape(1, -1)).float(),
        "pos_y": torch.from_numpy(y.reshape(1, -1)).float(),
        "nets.weight": value(f"{camera}pool.weight", (32, 512, 1, 1)),
        "nets.bias": value(f"{camera}pool.bias", (32,)),
    }
    out = {"weight": value(f"{camera}out.weight", (64, 64)), "bias": value(camera + "out.b", (64,))}
    return {
        **{f"{begin}backbone.nets.{k}": v for k, v in net.items()},
        **{f"{begin}pool.{k}": v for k, v in pool.items()},
        **{f"{begin}nets.0.nets.{k}": v for k, v in net.items()},
        **{f"{begin}nets.1.{k}": v for k, v in pool.items()},
        **{f"{begin}nets.3.{k}": v for k, v in out.items()},
    }


def network_weights(name: str, dim: int) -> Iterator[tuple[str, Tensor]]:
    """What denoises, which is that of the policies without images."""
    sizes: Any = {"horizon": 8, "n_obs_steps": TO, "cond_dim": dim, "input_dim": ACT}
    if name.startswith("unet"):
        network: Any = Unet(UnetConfig(**sizes, **UNET, cond_predict_scale=True))
    else:
        network = DiffusionTransformer(NetworkConfig(**sizes, **TRANSFORMER, output_dim=ACT))
    for key, parameter in network.named_parameters():
        yield key, value(f"model.{key}", tuple(parameter.shape))
    yield from network.named_buffers()


def _maps(obs: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Of the normaliser: images from [0, 1] to [-1, 1], numbers by a formula."""
    image = {"scale": 2.0, "offset": -1.0}
    image |= {"input_stats.min": 0.0, "input_stats.max": 1.0}
    image |= {"input_stats.mean": 0.5, "input_stats.std": 12**-0.5}
    arrays = {**obs, "action": {"shape": [ACT]}}
    for key, array in arrays.items():
        for part, number in image.items():
            n = array["shape"][0]
            held = torch.tensor([number])
            if len(array["shape"]) == 1:
                held = number + 0.1 * value(f"{key}{part}", (n,))
            yield f"normalizer.params_dict.{key}.{part}", held


def write(
    path: Path, cfg: Mapping[str, Any], state: Mapping[str, Tensor], model: Any = None
) -> Path:
    """As the reference implementation writes it."""
    payload = {
        "cfg": OmegaConf.create(dict(cfg)),
        "state_dicts": {"model": model or {"x": torch.zeros(1)}, "ema_model": dict(state)},
        "pickles": {"epoch": dill.dumps(3), "global_step": dill.dumps(7)},
    }
    torch.save(payload, path, pickle_module=dill)
    return path


def observations(kind: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """(n, TO, ...) by shape_meta's names; images uint8."""
    draw = np.random.RandomState(seed)
    return {
        key: torch.from_numpy(draw.randint(0, 256, (n, TO, *array["shape"])).astype(np.uint8))
        if len(array["shape"]) == 3
        else torch.from_numpy(draw.uniform(-1, 1, (n, TO, *array["shape"])).astype(np.float32))
        for key, array in KINDS[kind][1].items()
    }
