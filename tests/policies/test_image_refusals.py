"""Image checkpoints that do not fit, and those of other classes and libraries: refused by name."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from policies import CheckpointError, UnsupportedPolicy, from_reference, load_policy, policy_config
from policies.reference.interpolation import resolve
from policies.reference.live import own_state
from tests.helpers.image_checkpoints import CLASSES, cfg_of, state_of, write
from tests.helpers.places import DATA
from tests.helpers.reader_files import Gadget, refusal, save

State = dict[str, Tensor]
CAMERA = "obs_encoder.obs_nets.image."
MAPS = "normalizer.params_dict."


def refused(
    change: Callable[[dict[str, Any]], object], kind: str, kinds: Any = UnsupportedPolicy
) -> str:
    """The message, of one line, with which a changed configuration is refused."""
    cfg = cfg_of(kind)
    change(cfg)
    with pytest.raises(kinds) as error:
        policy_config(resolve(cfg))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("RobomimicImagePolicy", "it is robomimic's recurrent policy"),
        ("RobomimicLowdimPolicy", "it is robomimic's recurrent policy"),
        ("IbcDfoHybridImagePolicy", "it searches for the action of least energy"),
        ("BETLowdimPolicy", "it chooses among clusters of actions"),
        ("DiffusionUnetVideoPolicy", "its encoder sees several frames at once"),
        ("DiffusionUnetTimmPolicy", "its encoder is one of the timm library"),
        ("SomethingElse", "SomethingElse is not supported: Diffusion"),
    ],
)
def test_another_class_is_refused_by_what_it_would_need(name: str, words: str) -> None:
    found = refused(lambda cfg: cfg["policy"].update(_target_=f"a.b.{name}"), "unet")
    assert found.startswith(f"{name} is not supported")
    assert words in found
    assert all(supported in found for supported in CLASSES.values())


POLICY_MISTAKES: dict[str, tuple[str, dict[str, Any], str]] = {
    "painted in": ("unet", {"obs_as_global_cond": False}, "policy.obs_as_global_cond=false is not"),
    "painted in, transformer": (
        *("transformer", {"obs_as_cond": False}),
        "policy.obs_as_cond=false is not supported: encoded images are a condition here",
    ),
    "flag": ("unet", {"obs_encoder_group_norm": 1}, "obs_encoder_group_norm must be true or false"),
    "attention": ("transformer", {"causal_attn": "no"}, "policy.causal_attn must be true or false"),
    "crop": ("transformer", {"crop_shape": [46, 20]}, "crop must fit into image.image, which is"),
    "crop of one": ("transformer", {"crop_shape": 40}, "encoder.crop must be [height, width]"),
    "network": ("unet", {"down_dims": [16]}, "network.down_dims must name two levels or more"),
    "model": ("unet", {"model": {}}, "policy.model={} is not a setting this project knows"),
    "unknown": ("unet", {"use_depth": True}, "policy.use_depth=True is not a setting"),
    "no encoder": ("unet", {"obs_encoder": {}}, "policy.obs_encoder={} is not a setting"),
}


@pytest.mark.parametrize("mistake", POLICY_MISTAKES)
def test_settings_that_are_not_run_are_refused(mistake: str) -> None:
    kind, change, words = POLICY_MISTAKES[mistake]
    found = refused(lambda cfg: cfg["policy"].update(change), kind, (ValueError, TypeError))
    assert words in found


RESNET = {"_target_": "diffusion_policy.model.vision.model_getter.get_resnet", "name": "resnet18"}
ENCODER_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "timm": (
        {"_target_": "diffusion_policy.model.vision.timm_obs_encoder.TimmObsEncoder"},
        "policy.obs_encoder TimmObsEncoder is not supported (MultiImageObsEncoder with get_resnet "
        "of resnet18, resnet34, resnet50 is)",
    ),
    "clip": (
        {"rgb_model": {"_target_": "clip.load", "name": "ViT-B/32"}},
        "policy.obs_encoder.rgb_model load ViT-B/32 is not supported (MultiImageObsEncoder with",
    ),
    "r3m": (
        {"rgb_model": {"_target_": "x.get_r3m", "name": "resnet18"}},
        "policy.obs_encoder.rgb_model get_r3m resnet18 is not supported",
    ),
    "size": (
        {"rgb_model": {**RESNET, "name": "resnet101"}},
        "policy.obs_encoder.rgb_model get_resnet resnet101 is not supported",
    ),
    "one a camera": (
        {"rgb_model": {"agent": RESNET}},
        "policy.obs_encoder.rgb_model must be one network for all cameras",
    ),
    "layer": (
        {"rgb_model": {**RESNET, "replace_stride_with_dilation": [False, True, True]}},
        "rgb_model.replace_stride_with_dilation is not known to this project",
    ),
    "unknown": ({"color_jitter": True}, "policy.obs_encoder.color_jitter is not known"),
    "sizes": (
        {"crop_shape": {"agent": [36, 44], "other": [30, 30]}},
        "policy.obs_encoder.crop_shape must be one for all cameras",
    ),
    "flag": ({"imagenet_norm": "yes"}, "policy.obs_encoder.imagenet_norm must be true or false"),
    "other shapes": (
        {"shape_meta": {"obs": {}, "action": {"shape": [3]}}},
        "policy.obs_encoder.shape_meta is not policy.shape_meta",
    ),
}


@pytest.mark.parametrize("mistake", ENCODER_MISTAKES)
def test_encoders_that_are_not_run_are_refused(mistake: str) -> None:
    change, words = ENCODER_MISTAKES[mistake]
    found = refused(lambda cfg: cfg["policy"]["obs_encoder"].update(change), "image")
    assert words in found


def obs(cfg: dict[str, Any]) -> Any:
    return cfg["task"]["shape_meta"]["obs"]


SHAPE_MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no shape": (lambda c: obs(c)["agent"].pop("shape"), "policy.shape_meta.obs.agent has no sh"),
    "a number": (lambda c: obs(c).update(agent=3), "policy.shape_meta.obs.agent has no shape"),
    "flat": (
        lambda c: obs(c)["agent"].update(shape=[96]),
        "policy.shape_meta.obs.agent.shape must be [C, H, W], numbers from 1 to 65536, got [96]",
    ),
    "matrix": (lambda c: obs(c)["pos"].update(shape=[2, 3]), "obs.pos.shape must be [D], numbers"),
    "nothing": (lambda c: obs(c)["pos"].update(shape=[0]), "obs.pos.shape must be [D], numbers"),
    "large": (lambda c: obs(c)["pos"].update(shape=[10**9]), "to 65536, got [1000000000]"),
    "text": (lambda c: obs(c)["agent"].update(shape="3x96x96"), "got '3x96x96'"),
    "depth": (
        lambda c: obs(c)["agent"].update(type="depth"),
        "policy.shape_meta.obs.agent.type must be rgb or low_dim, got 'depth'",
    ),
    "history": (lambda c: obs(c)["agent"].update(horizon=2), "obs.agent.horizon is not known to"),
    "name": (lambda c: obs(c).update({"a.b": {"shape": [2]}}), "holds 'a.b', which is not a name"),
    "taken": (
        lambda c: obs(c).update(action={"shape": [2]}),
        "'action', which is not a name of an array",
    ),
    "action": (lambda c: c["task"]["shape_meta"].update(action={}), "shape_meta.action.shape must"),
    "no action": (lambda c: c["task"]["shape_meta"].pop("action"), "must say the shapes of obs"),
    "no shapes": (
        lambda c: c["policy"].pop("shape_meta"),
        "DiffusionUnetImagePolicy is not supported without policy.shape_meta",
    ),
    "no meta": (lambda c: c["task"].update(shape_meta=[]), "must say the shapes of obs and of act"),
    "channels": (
        lambda c: obs(c)["agent"].update(shape=[4, 45, 51]),
        "policy.obs_encoder.imagenet_norm=true needs images of 3 channels",
    ),
}


@pytest.mark.parametrize("mistake", SHAPE_MISTAKES)
def test_shapes_that_say_too_little_are_refused(mistake: str) -> None:
    change, words = SHAPE_MISTAKES[mistake]
    assert words in refused(change, "image", ValueError)


def test_an_array_without_a_name_for_its_camera_keeps_its_own() -> None:
    cfg = cfg_of("image")
    obs(cfg)["state"] = {"shape": [1]}
    assert list(policy_config(resolve(cfg)).obs_spec) == ["image.agent", "grip", "pos", "state"]


def renamed(state: State, old: str, new: str) -> None:
    for name in [name for name in state if name.startswith(old)]:
        state[name.replace(old, new)] = state.pop(name)


def without(part: str) -> Callable[[State], object]:
    return lambda s: [s.pop(name) for name in list(s) if part in name]


STATE_MISTAKES: dict[str, tuple[str, Callable[[State], object], str]] = {
    "a weight": (
        *("transformer", without(".4.1.conv2.")),
        "camera image: backbone.4.1.conv2.weight is missing (1 such weights in all)",
    ),
    "another camera": (
        *("transformer", lambda s: renamed(s, CAMERA, "obs_encoder.obs_nets.top.")),
        "obs_encoder.obs_nets.top.backbone.nets.0.weight is not known, cameras are image",
    ),
    "no camera": (
        *("transformer", without("obs_encoder")),
        "camera image: pos_x must hold 4 numbers, got nothing",
    ),
    "no camera of its own": ("image", without("obs_encoder"), "camera agent has no weights"),
    "its classifier": (
        *("image", lambda s: s.update({"obs_encoder.key_model_map.agent.fc.weight": s["x"]})),
        "obs_encoder.key_model_map.agent.fc.weight is not known, cameras are agent",
    ),
    "a part": (
        *("transformer", lambda s: s.update({f"{CAMERA}nets.4.weight": s["x"]})),
        f"{CAMERA}nets.4.weight is not known",
    ),
    "too much": (
        *("transformer", lambda s: s.update({f"{CAMERA}nets.3.scale": s["x"]})),
        "camera image: out.scale is not known (1 such weights in all)",
    ),
    "batch norms": (
        *("shared", without("running_")),
        "the settings say BatchNorm for images, the weights are GroupNorm's",
    ),
    "two values": (
        *("transformer", lambda s: s.update({f"{CAMERA}pool.nets.bias": torch.ones(32)})),
        f"{CAMERA}nets.1.nets.bias differs from the same weight's other name",
    ),
    "positions": (
        "transformer",
        lambda s: s.update(
            {f"{CAMERA}{part}.pos_x": torch.zeros(1, 9) for part in ("pool", "nets.1")}
        ),
        "camera image: pos_x must hold 4 numbers, got 9 numbers",
    ),
    "temperature": (
        "transformer",
        lambda s: s.update(
            {f"{CAMERA}{part}.temperature": torch.zeros(1) for part in ("pool", "nets.1")}
        ),
        "camera image: temperature must be above 0, got 0.0",
    ),
    "statistics": (
        *("image", without(f"{MAPS}grip.")),
        f"{MAPS}grip.scale is missing",
    ),
    "one statistic": (
        *("image", without(f"{MAPS}agent.input_stats.std")),
        f"{MAPS}agent.input_stats.std is missing",
    ),
    "statistics of the action": (
        *("image", without(f"{MAPS}action.")),
        f"{MAPS}action.scale is missing",
    ),
    "statistics of more": (
        *("image", lambda s: s.update({f"{MAPS}depth.scale": torch.ones(1)})),
        f"{MAPS}depth.scale is not known, arrays are agent, grip, pos, action",
    ),
    "statistics of columns": (
        *("image", lambda s: s.update({f"{MAPS}agent.scale": torch.ones(3)})),
        f"{MAPS}agent.scale must hold 1 number, got (3,)",
    ),
    "statistics of others": (
        *("image", lambda s: s.update({f"{MAPS}pos.offset": torch.ones(2)})),
        f"{MAPS}pos.offset must hold 1 or 3 numbers, got (2,)",
    ),
    "variance": (
        *("shared", lambda s: s["obs_encoder.key_model_map.rgb.bn1.running_var"].neg_()),
        "backbone.1.running_var holds negative numbers",
    ),
}


@pytest.mark.parametrize("mistake", STATE_MISTAKES)
def test_weights_that_do_not_fit_are_refused(mistake: str) -> None:
    kind, change, words = STATE_MISTAKES[mistake]
    state = {**state_of(kind), "x": torch.zeros(1)}
    for name in (name for name in state if name.endswith("running_var")):
        state[name] = state[name].clone()
    change(state)
    state.pop("x", None)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        own_state(state, resolve(cfg_of(kind)))
    assert "\n" not in str(error.value)


def test_group_norms_are_not_loaded_as_batch_norms_nor_the_other_way() -> None:
    cfg = cfg_of("transformer", policy={"obs_encoder_group_norm": False})
    with pytest.raises(ValueError, match="say BatchNorm for images, the weights are GroupNorm's"):
        own_state(state_of("transformer"), resolve(cfg))
    cfg = cfg_of("unet", policy={"obs_encoder_group_norm": True})
    with pytest.raises(ValueError, match="say GroupNorm for images, the weights are BatchNorm's"):
        own_state(state_of("unet"), resolve(cfg))


def test_each_missing_weight_is_named() -> None:
    cfg, state = resolve(cfg_of("image")), state_of("image")
    names = [name for name in state if name.startswith("obs_encoder.key") or MAPS in name]
    for name in names[::9]:
        with pytest.raises(ValueError, match="is missing") as error:
            own_state({k: v for k, v in state.items() if k != name}, cfg)
        last = name.removeprefix("obs_encoder.key_model_map.agent.")
        assert last.split(".", 1)[1] in str(error.value)


def test_a_file_that_does_not_fit_is_refused_with_its_name(tmp_path: Path) -> None:
    state = dict(state_of("transformer"))
    kinds = {
        "missing": {k: v for k, v in state.items() if "nets.3.bias" not in k},
        "shape": {**state, f"{CAMERA}nets.3.bias": torch.zeros(63)},
        "not finite": {**state, f"{CAMERA}nets.3.bias": torch.full((64,), torch.inf)},
        "network": {k: v for k, v in state.items() if k != "model.head.bias"},
    }
    for changed, words in zip(
        kinds.values(),
        ("out.bias is missing", "63", "encoder.nets.0.out.bias holds NaN", "model.head.bias"),
        strict=True,
    ):
        path = write(tmp_path / "a.ckpt", cfg_of("transformer"), changed)
        with pytest.raises(CheckpointError) as error:
            load_policy(path)
        assert str(path) in str(error.value)
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_a_live_image_policy_is_refused_by_name() -> None:
    class DiffusionUnetImagePolicy:
        model = torch.nn.Linear(1, 1)

    class RobomimicImagePolicy:
        pass

    with pytest.raises(UnsupportedPolicy, match="are read from checkpoints, not live"):
        from_reference(DiffusionUnetImagePolicy())
    with pytest.raises(UnsupportedPolicy, match=r"RobomimicImagePolicy is not supported \(it is"):
        from_reference(RobomimicImagePolicy())


WEIGHTS = OrderedDict(weight=torch.zeros(2, 2))
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "dppo, trained": ({"epoch": 3, "model": WEIGHTS, "ema": WEIGHTS}, "a checkpoint of DPPO"),
    "dppo, tuned": ({"itr": 3, "model": WEIGHTS}, "a checkpoint of DPPO"),
}


@pytest.mark.parametrize("library", OTHERS)
def test_checkpoints_of_other_libraries_are_refused_by_its_name(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload, words = OTHERS[library]
    assert words in refusal(save(tmp_path / "a.pt", payload))
    with pytest.raises(CheckpointError, match=words):
        load_policy(tmp_path / "a.pt")
    monkeypatch.chdir(tmp_path)
    hostile = {**payload, "hook": Gadget(os.system, "touch ran")}
    assert words in refusal(save(tmp_path / "b.pt", hostile))  # and nothing ran
    assert not (tmp_path / "ran").exists()
    assert "not a diffusion_policy" in refusal(save(tmp_path / "c.pt", {"model": WEIGHTS}))


def test_the_outputs_of_the_reference_are_small() -> None:
    assert (DATA / "image_policies.npz").stat().st_size < 100_000
