"""How the image policies of the reference implementation encode what they see.

The hybrid ones take robomimic's observation encoder, the others the reference's own
`MultiImageObsEncoder`; both are an `EncoderConfig` with other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..encoders.config import BACKBONES, EncoderConfig
from ..family import UnsupportedPolicy, flag
from .seen import Seen, names_of, shapes_in

CROP = (76, 76)  # of the hybrid policies, where the file says nothing
ROBOMIMIC: dict[str, Any] = {  # the encoder that they build, whatever else robomimic has
    **{"backbone": "resnet18", "pool": "spatial_softmax", "n_keypoints": 32},
    **{"feature_dim": 64, "relu": True},
}
NOT_FIXED = (
    "policy.eval_fixed_crop=false: images are cropped at their center all the same (robomimic 0.2 "
    "crops them anywhere, also when the policy acts, 0.3 at the center)"
)
ALIASED = (
    "policy.obs_encoder.resize_shape makes images smaller: here without antialiasing, as "
    "torchvision before 0.17, which the reference pins (newer ones differ; no file says which)"
)
OF_ENCODER = (
    *("shape_meta", "rgb_model", "resize_shape", "crop_shape", "random_crop", "use_group_norm"),
    *("share_rgb_model", "imagenet_norm"),
)
SUPPORTED = f"MultiImageObsEncoder with get_resnet of {', '.join(BACKBONES)}"


def robomimic(policy: dict[str, Any]) -> Seen:
    """Of robomimic's observation encoder: arrays in shape_meta's order, one network a camera.

    Args:
        policy: cfg.policy; what is used of it leaves it.
    """
    shapes, action_dim = shapes_in(policy.pop("shape_meta"))
    crop = policy.pop("crop_shape", CROP)
    normed = flag(policy.pop("obs_encoder_group_norm", False), "policy.obs_encoder_group_norm")
    fixed = flag(policy.pop("eval_fixed_crop", False), "policy.eval_fixed_crop")
    names = names_of(shapes)
    arrays = {ours: shapes[theirs] for theirs, ours in names.items()}
    norm = "group" if normed else "batch"
    config = EncoderConfig(arrays, crop=crop, norm=norm, **ROBOMIMIC)
    return Seen(config, names, action_dim, note=NOT_FIXED if crop and not fixed else "")


def multi_image(policy: dict[str, Any]) -> Seen:
    """Of a `MultiImageObsEncoder`: images by name, then numbers by name; features are averages.

    Three peculiarities are the published code's: without `random_crop` nothing is cropped, a shared
    network keeps its batch norms, and images come to ImageNet's statistics in [-1, 1].

    Args:
        policy: cfg.policy; what is used of it leaves it.
    """
    meta, encoder = policy.pop("shape_meta"), dict(policy.pop("obs_encoder"))
    _check_encoder(encoder, meta)
    on = {
        name: flag(encoder.get(name, default), f"policy.obs_encoder.{name}")
        for name, default in {
            **{"random_crop": True, "use_group_norm": False},
            **{"share_rgb_model": False, "imagenet_norm": False},
        }.items()
    }
    shapes, action_dim = shapes_in(meta)
    shapes = dict(sorted(shapes.items(), key=lambda item: (len(item[1]) == 1, item[0])))
    names = names_of(shapes)
    arrays = {ours: shapes[theirs] for theirs, ours in names.items()}
    sizes = {n: _one_size(f"{n}_shape", encoder.get(f"{n}_shape")) for n in ("resize", "crop")}
    if on["imagenet_norm"] and any(a[0] != 3 for a in arrays.values() if len(a) == 3):
        raise UnsupportedPolicy("policy.obs_encoder.imagenet_norm=true needs images of 3 channels")
    config = EncoderConfig(
        arrays,
        backbone=_resnet(encoder["rgb_model"]),
        norm="group" if on["use_group_norm"] and not on["share_rgb_model"] else "batch",
        resize=sizes["resize"],
        antialias=False,  # torchvision before 0.17, which the reference pins
        crop=sizes["crop"] if on["random_crop"] else None,
        pool="average",
        shared=on["share_rgb_model"],
    )
    height, width = config.resize or (float("inf"), float("inf"))
    shrinks = any(arrays[name][1] > height or arrays[name][2] > width for name in config.cameras)
    return Seen(config, names, action_dim, on["imagenet_norm"], ALIASED if shrinks else "")


OBSERVERS: dict[str, Callable[[dict[str, Any]], Seen]] = {
    "robomimic": robomimic,
    "multi_image": multi_image,
}


def _check_encoder(encoder: Mapping[str, Any], meta: Any) -> None:
    target = str(encoder.get("_target_", "")).rpartition(".")[2]
    if target != "MultiImageObsEncoder":
        raise UnsupportedPolicy(f"policy.obs_encoder {target} is not supported ({SUPPORTED} is)")
    if unknown := sorted(set(encoder) - {"_target_", *OF_ENCODER}):
        raise UnsupportedPolicy(f"policy.obs_encoder.{unknown[0]} is not known to this project")
    if encoder["shape_meta"] != meta:
        raise UnsupportedPolicy("policy.obs_encoder.shape_meta is not policy.shape_meta")


def _one_size(name: str, size: Any) -> Any:
    if isinstance(size, Mapping):
        if len({tuple(one) for one in size.values()}) != 1:
            raise UnsupportedPolicy(
                f"policy.obs_encoder.{name} must be one for all cameras, got {dict(size)}"
            )
        return next(iter(size.values()))
    return size


def _resnet(model: Any) -> str:
    """The backbone's name; what its weights began as does not matter."""
    if not isinstance(model, Mapping) or "_target_" not in model:
        raise UnsupportedPolicy("policy.obs_encoder.rgb_model must be one network for all cameras")
    target = str(model["_target_"]).rpartition(".")[2]
    name = model.get("name")
    if target != "get_resnet" or name not in BACKBONES:
        said = f"{target} {name}" if name else target
        raise UnsupportedPolicy(
            f"policy.obs_encoder.rgb_model {said} is not supported ({SUPPORTED} is)"
        )
    if unknown := sorted(set(model) - {"_target_", "name", "weights"}):
        raise UnsupportedPolicy(
            f"policy.obs_encoder.rgb_model.{unknown[0]} is not known to this project"
        )
    return str(name)
