"""Checkpoints of robomimic 0.5's diffusion_policy: its names and its layout, weights by a formula.

Its network has 65 million numbers whatever the config says; `SMALL` stands for it here.
"""

from __future__ import annotations

import copy
import functools
import json
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.helpers.image_checkpoints import ACT, SIZE, TO, network_weights, robomimic_camera

CROP = [36, 42]  # which robomimic and diffusion_policy cut out at the same place
SMALL = {"diffusion_step_embed_dim": 16, "down_dims": [16, 32], "kernel_size": 3}
ARRAYS = {  # kind -> arrays by their kind, in the order of the config, which does not count
    "image": {"rgb": {"wrist": [3, *SIZE]}, "low_dim": {"pos": [3], "grip": [2]}},
    "numbers": {"rgb": {}, "low_dim": {"pos": [3], "object": [4]}},
}
STATISTICS = {  # of the observations; those of the actions stand in two parts
    "object": {"offset": [[0.1, 0.2, -0.3, 0.4]], "scale": [[0.5, 2.0, 1.5, 0.8]]},
    "pos": {"offset": [[0.0, 1.0, -1.0]], "scale": [[1.0, 0.25, 3.0]]},
}
ACTIONS = {
    "actions/pos": {"offset": [[0.5, -0.25]], "scale": [[2.0, 0.5]]},
    "actions/grip": {"offset": [[0.0]], "scale": [[1.0]]},
}


def config_of(kind: str) -> dict[str, Any]:
    """What robomimic has as its defaults, with the parts that training needs left out."""
    modalities = {name: list(arrays) for name, arrays in ARRAYS[kind].items()}
    nothing: dict[str, Any] = {
        "core_kwargs": {},
        "obs_randomizer_class": None,
        "obs_randomizer_kwargs": {},
    }
    crop = {"crop_height": CROP[0], "crop_width": CROP[1], "num_crops": 1, "pos_enc": False}
    return {
        "algo_name": "diffusion_policy",
        "train": {
            "hdf5_normalize_obs": kind == "numbers",
            "action_keys": list(ACTIONS),
            "action_config": {key: {"normalization": "min_max"} for key in ACTIONS},
        },
        "algo": {
            "horizon": {
                **{"observation_horizon": TO, "action_horizon": 4},
                "prediction_horizon": 8,
            },
            "unet": {"enabled": True, "down_dims": [1, 2, 3]},
            "ema": {"enabled": True, "power": 0.75},
            "ddpm": {
                **{"enabled": kind == "image", "num_train_timesteps": 10},
                **{"num_inference_timesteps": 10, "beta_schedule": "squaredcos_cap_v2"},
                **{"clip_sample": True, "prediction_type": "epsilon"},
            },
            "ddim": {
                **{"enabled": kind == "numbers", "num_train_timesteps": 10},
                **{"num_inference_timesteps": 5, "beta_schedule": "squaredcos_cap_v2"},
                **{"clip_sample": True, "prediction_type": "epsilon"},
                **{"set_alpha_to_one": True, "steps_offset": 0},
            },
        },
        "observation": {
            "modalities": {"obs": {**modalities, "depth": [], "scan": []}, "goal": {}},
            "encoder": {
                "low_dim": {"core_class": None, **nothing},
                "rgb": {
                    "core_class": "VisualCore",
                    "core_kwargs": {},
                    "obs_randomizer_class": "CropRandomizer" if kind == "image" else None,
                    "obs_randomizer_kwargs": crop if kind == "image" else {},
                },
            },
        },
    }


@functools.cache
def nets_of(kind: str) -> OrderedDict[str, Tensor]:
    """The state dict of its networks; do not change it."""
    return OrderedDict(_weights(kind))


def _weights(kind: str) -> Iterator[tuple[str, Tensor]]:
    arrays = ARRAYS[kind]
    for camera in arrays["rgb"]:
        for name, tensor in robomimic_camera(camera, True, CROP).items():
            yield f"policy.obs_encoder.nets.obs.{name.removeprefix('obs_encoder.')}", tensor
    dim = 64 * len(arrays["rgb"]) + sum(n for (n,) in arrays["low_dim"].values())
    for name, tensor in network_weights("unet", dim):
        yield f"policy.noise_pred_net.{name}", tensor


def payload_of(kind: str) -> dict[str, Any]:
    """What torch.save is given; what is not the average is wrong."""
    shapes = {name: shape for part in ARRAYS[kind].values() for name, shape in part.items()}
    statistics = {"obs_normalization_stats": STATISTICS} if kind == "numbers" else {}
    ema = nets_of(kind)
    raw = OrderedDict((k, v + 1 if "net.final" in k else v) for k, v in ema.items())
    return {
        "model": {"nets": raw, "ema": ema, "optimizers": {}, "lr_schedulers": {"policy": None}},
        "config": json.dumps(config_of(kind), indent=4),
        "algo_name": "diffusion_policy",
        "env_metadata": {"env_name": "Lift", "env_version": "1.5.1", "env_kwargs": {"a": [1]}},
        "shape_metadata": {
            "ac_dim": ACT,
            "all_shapes": OrderedDict(sorted(copy.deepcopy(shapes).items())),
            "all_obs_keys": sorted(shapes),
            "use_images": kind == "image",
        },
        "variable_state": {"epoch": 3, "best": np.float64(0.5)},
        **statistics,
        "action_normalization_stats": ACTIONS,
    }


def observations(kind: str, n: int) -> dict[str, Tensor]:
    """(n, TO, ...) by its names, in their sorted order; images uint8."""
    draw = np.random.RandomState(3)
    found = {}
    for name, shape in payload_of(kind)["shape_metadata"]["all_shapes"].items():
        if len(shape) == 3:
            found[name] = torch.from_numpy(draw.randint(0, 256, (n, TO, *shape)).astype(np.uint8))
        else:
            numbers = draw.uniform(-1, 1, (n, TO, *shape)).astype(np.float32)
            found[name] = torch.from_numpy(numbers)
    return found
