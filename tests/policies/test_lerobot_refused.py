"""What is not a LeRobot policy of type diffusion, whole and in one meaning, is refused by name."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies import CheckpointError, UnsupportedPolicy, load_policy
from policies.lerobot.settings import CHANGE_NOTHING, OTHER_TYPES
from tests.helpers.lerobot_folder import (
    CONFIG,
    STATE_FILES,
    WEIGHTS,
    Arrays,
    edit_json,
    edit_tensors,
    expected,
    weights_of,
    write,
)
from tests.policies.test_lerobot import noise, observation

BEFORE, AFTER = "policy_preprocessor.json", "policy_postprocessor.json"
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of 0.4.4: state and environment_state."""
    return write("v044_state", tmp_path / "policy")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Of 0.3.3, with its statistics among the weights."""
    return write("v033_state", tmp_path / "older")


@pytest.fixture(scope="module")
def _pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("v044_image", tmp_path_factory.mktemp("pictures") / "policy")


@pytest.fixture
def pictures(_pictures: Path, tmp_path: Path) -> Path:
    """Of 0.4.4: state and one camera; its weights are a link."""
    copy = tmp_path / "pictures"
    shutil.copytree(_pictures, copy, ignore=shutil.ignore_patterns(WEIGHTS))
    (copy / WEIGHTS).symlink_to(_pictures / WEIGHTS)
    return copy


def refusal(folder: Path) -> str:
    with pytest.raises((CheckpointError, UnsupportedPolicy)) as error:
        load_policy(folder)
    words = str(error.value)
    assert "\n" not in words
    assert words.startswith(f"{folder}: ")
    return words.removeprefix(f"{folder}: ")


@pytest.mark.parametrize("kind", [*OTHER_TYPES, "xvla", None, 3])
def test_another_type(kind: Any, folder: Path) -> None:
    edit_json(folder, CONFIG, lambda c: c.update(type=kind))
    words = refusal(folder)
    assert words.startswith(f"config.json: type {kind!r} of LeRobot is not supported: ")
    only = "only diffusion and multi_task_dit are read"
    assert words.endswith(OTHER_TYPES.get(str(kind), only))


def without(*path: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        del content[path[-1]]

    return change


def put(value: Any, *path: Any) -> Change:
    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


STATE, ENV = "observation.state", "observation.environment_state"
SETTINGS: dict[str, tuple[Change, str]] = {
    "unknown": (put(2.0, "guidance"), "guidance=2.0 is not a setting this project knows"),
    "missing": (without("horizon"), "config.json: horizon is missing"),
    "text": (put("16", "horizon"), "horizon must be a whole number from 1 to 1000000, got '16'"),
    "true": (put(True, "n_obs_steps"), "n_obs_steps must be a whole number"),
    "huge": (put(10**12, "num_train_timesteps"), "num_train_timesteps must be a whole number"),
    "flag": (put(1, "use_film_scale_modulation"), "use_film_scale_modulation must be true or fal"),
    "number": (put("1", "beta_start"), "beta_start must be a number above 0 and at most 1"),
    "negative": (put(-1, "clip_sample_range"), "clip_sample_range must be a number above 0"),
    "endless": (put(10**400, "clip_sample_range"), "clip_sample_range must be a number above 0"),
    "length": (put(15, "horizon"), "horizon must be a multiple of 2"),
    "actions": (put(15, "n_action_steps"), "n_action_steps must be from 1 to 14"),
    "steps": (
        put(21, "num_inference_steps"),
        "num_inference_steps must be null or from 1 to num_train_timesteps = 20, got 21",
    ),
    "prediction": (put("v_prediction", "prediction_type"), "must be one of epsilon, sample, got"),
    "scheduler": (put("EDM", "noise_scheduler_type"), "must be one of DDPM, DDIM, got 'EDM'"),
    "schedule": (put("laplace", "beta_schedule"), "beta_schedule must be one of linear"),
    "backbone": (put("vit", "vision_backbone"), "vision_backbone must be one of resnet18"),
    "adapter": (put(True, "use_peft"), "use_peft=true is not supported"),
    "levels": (put([32], "down_dims"), "network.down_dims must name two levels or more"),
    "widths": (
        put([32, 32], "down_dims"),
        "diffusion.unet.down_modules.1.0.residual_conv.bias is unexp",
    ),
    "kernel": (put(5, "kernel_size"), "must have shape [32, 2, 5] by config.json, got [32, 2, 3]"),
    "scale": (put(True, "use_film_scale_modulation"), "cond_encoder.1.weight must have shape"),
    "crop": (put([84], "crop_shape"), "crop_shape must be [height, width] or null, got [84]"),
    "ratio": (put(0, "crop_ratio"), "crop_ratio must be a number above 0 and at most 1, got 0"),
    "mode": (put("LOG", "normalization_mapping", "STATE"), "normalization_mapping.STATE must be"),
    "other mode": (
        put("MEAN_STD", "normalization_mapping", "STATE"),
        "policy_preprocessor.json: norm_map contradicts normalization_mapping of config.json",
    ),
    "no state": (without("input_features", STATE), "must have observation.state of type STATE"),
    "no inputs": (put(None, "input_features"), "input_features must be a mapping, got None"),
    "text input": (put("LANGUAGE", "input_features", STATE, "type"), "type must be one of STATE"),
    "feature": (put(4, "input_features", STATE), "must have type and shape, got 4"),
    "shape": (put([4, 1], "input_features", STATE, "shape"), "shape must be [numbers], got [4, 1]"),
    "other env": (
        lambda c: c["input_features"].update({"observation.world": c["input_features"].pop(ENV)}),
        "of type ENV only observation.environment_state is read",
    ),
    "two actions": (
        put({"type": "ACTION", "shape": [2]}, "output_features", "action.more"),
        "output_features must be action alone, got action, action.more",
    ),
    "action": (put("STATE", "output_features", "action", "type"), "type must be one of ACTION"),
    "action size": (put([3], "output_features", "action", "shape"), "features.action must be"),
    "state size": (put([5], "input_features", STATE, "shape"), f"features.{STATE} must be"),
}


@pytest.mark.parametrize("mistake", SETTINGS)
def test_a_setting(mistake: str, folder: Path) -> None:
    change, words = SETTINGS[mistake]
    edit_json(folder, CONFIG, change)
    assert words in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"type": NaN}', "\udcff", "[" * 10**5])
def test_what_is_not_json(text: str, folder: Path) -> None:
    (folder / CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert refusal(folder).startswith("config.json: ")


def test_settings_that_change_no_action_may_be_anything(folder: Path) -> None:
    plain = load_policy(folder)
    edit_json(folder, CONFIG, lambda c: c.update(dict.fromkeys(CHANGE_NOTHING, "x")))
    assert load_policy(folder).fingerprint() == plain.fingerprint()
    assert not set(CHANGE_NOTHING) & {"horizon", "crop_shape", "use_group_norm"}


STEP = {"registry_name": "tokenizer_processor", "config": {"max_length": 32}}
NORMALIZER = ("steps", 3, "config")
PIPELINES: dict[str, tuple[str, Change, str]] = {
    "tokenizer": (BEFORE, lambda c: c["steps"].insert(2, STEP), "step 2, tokenizer_processor, is"),
    "code": (BEFORE, put({"class": "evil.Step"}, "steps", 0), "step 0 is 'evil.Step', code of its"),
    "after": (AFTER, lambda c: c["steps"].append(STEP), "step 2, tokenizer_processor, is not supp"),
    "none": (BEFORE, lambda c: c["steps"].pop(), "must have one normalizer_processor, got 0"),
    "two": (AFTER, lambda c: c["steps"].append(c["steps"][0]), "one unnormalizer_processor, got 2"),
    "half": (BEFORE, put("float16", "steps", 2, "config", "float_dtype"), "float_dtype must be nu"),
    "eps": (BEFORE, put(1e-6, *NORMALIZER, "eps"), "eps must be 1e-08, got 1e-06"),
    "some": (BEFORE, put([STATE], *NORMALIZER, "normalize_observation_keys"), "normalize_observat"),
    "more": (BEFORE, put(1, *NORMALIZER, "clip"), "clip=1 is not a setting this project knows"),
    "map": (AFTER, put("MEAN_STD", "steps", 0, "config", "norm_map", "ACTION"), "norm_map contrad"),
    "feature": (BEFORE, put({}, *NORMALIZER, "features"), f"{STATE} must"),
    "no file": (BEFORE, put(None, "steps", 3, "state_file"), "names no state_file"),
    "outside": (BEFORE, put("../x.safetensors", "steps", 3, "state_file"), "of this folder"),
    "pickle": (AFTER, put("stats.pkl", "steps", 0, "state_file"), "must be a .safetensors file"),
    "missing": (AFTER, put("x.safetensors", "steps", 0, "state_file"), "x.safetensors is missing"),
    "rename": (BEFORE, put({STATE: "qpos"}, "steps", 0, "config", "rename_map"), "rename_map must"),
    "steps": (BEFORE, put({}, "steps"), "steps must be a list"),
    "step": (BEFORE, put(3, "steps", 1), "step 1 must be a mapping, got 3"),
    "config": (AFTER, put([], "steps", 1, "config"), "step 1, config must be a mapping, got []"),
}


@pytest.mark.parametrize("mistake", PIPELINES)
def test_a_pipeline(mistake: str, folder: Path) -> None:
    file, change, words = PIPELINES[mistake]
    edit_json(folder, file, change)
    found = refusal(folder)
    assert words in found
    assert found.startswith(file)


@pytest.mark.parametrize("file", [BEFORE, AFTER, *STATE_FILES.values()])
def test_a_file_that_is_missing(file: str, folder: Path) -> None:
    (folder / file).unlink()
    assert file in refusal(folder)


STATISTICS: dict[str, tuple[str, Callable[[Arrays], Any], str]] = {
    "min": ("before", without(f"{STATE}.min"), f"{STATE}.min is missing, which min_max of"),
    "action": ("after", without("action.max"), "action.max is missing, which min_max of action"),
    "shape": ("before", put(np.zeros(5, "f4"), f"{STATE}.max"), "must have shape [4] by config"),
    "nan": ("after", put(np.full(2, np.nan, "f4"), "action.min"), "holds NaN or infinite values"),
    "two": ("after", put(np.zeros(2, "f4"), "action.min"), "have another min of action"),
}


@pytest.mark.parametrize("mistake", STATISTICS)
def test_statistics(mistake: str, folder: Path) -> None:
    file, change, words = STATISTICS[mistake]
    edit_tensors(folder, STATE_FILES[file], change)
    found = refusal(folder)
    assert words in found
    assert STATE_FILES[file] in found


def test_statistics_that_the_modes_do_not_need(folder: Path) -> None:
    """ENV has no mode, so environment_state enters as it is."""
    plain = load_policy(folder)

    def change(content: Arrays) -> None:
        for key in list(content):
            if not key.endswith((".min", ".max")) or ENV in key:
                del content[key]
        content["next.reward.max"] = np.ones(1, "f4")

    for file in STATE_FILES.values():
        edit_tensors(folder, file, change)
    assert load_policy(folder).fingerprint() == plain.fingerprint()


def test_every_weight_is_needed_and_no_other(folder: Path) -> None:
    weights = weights_of("v044_state")
    assert len(weights) > 60
    for key in weights:
        edit_tensors(folder, WEIGHTS, lambda c, key=key: c.pop(key))
        assert refusal(folder) == f"model.safetensors: {key} is missing"
        edit_tensors(folder, WEIGHTS, lambda c, key=key: c.update({key: weights[key]}))
    edit_tensors(folder, WEIGHTS, lambda c: c.update({f"{key}.more": weights[key]}))
    assert refusal(folder) == f"model.safetensors: {key}.more is unexpected"
    edit_tensors(folder, WEIGHTS, lambda c: c.update({f"extra.{i}": np.ones(2) for i in range(9)}))
    assert "is unexpected (9 more: " in refusal(folder)


def test_a_weight_of_another_kind(folder: Path) -> None:
    key = "diffusion.unet.final_conv.1.bias"
    for value, words in (
        (np.zeros(3, "f4"), f"{key} must have shape [2] by config.json, got [3]"),
        (np.zeros(2, "i4"), f"{key} must be floating-point numbers of 16 to 64 bits, got"),
        (np.array([np.inf, 0], "f4"), "holds NaN or infinite values"),
    ):
        edit_tensors(folder, WEIGHTS, put(value, key))
        assert words in refusal(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])
    assert refusal(folder).startswith("model.safetensors: cannot be read")


def test_compiled_weights_are_the_same(folder: Path) -> None:
    plain = load_policy(folder)

    def compiled(content: Arrays) -> None:
        for key in list(content):
            content[key.replace("unet.", "unet._orig_mod.")] = content.pop(key)

    edit_tensors(folder, WEIGHTS, compiled)
    edit_json(folder, CONFIG, put(True, "compile_model"))
    assert load_policy(folder).fingerprint() == plain.fingerprint()
    one = "diffusion.unet.final_conv.1.bias"
    edit_tensors(folder, WEIGHTS, put(np.zeros(2, "f4"), one))
    assert f"{one} is there twice" in refusal(folder)


BUFFER = "normalize_inputs.buffer_observation_state.min"


def test_statistics_of_0_3(older: Path) -> None:
    kept = weights_of("v033_state")
    statistics = {k: v for k, v in kept.items() if "normalize" in k}
    assert len(statistics) == 8
    for key, value in statistics.items():
        edit_tensors(older, WEIGHTS, without(key))
        assert f"model.safetensors: {key} is missing, which min_max_eps of" in refusal(older)
        edit_tensors(older, WEIGHTS, put(np.full_like(value, np.inf), key))
        assert f"{key} holds NaN or infinite values" in refusal(older)
        edit_tensors(older, WEIGHTS, put(value, key))
    edit_tensors(older, WEIGHTS, put(np.zeros(4, "f4"), BUFFER))
    assert f"{BUFFER} must have shape [5] by config.json, got [4]" in refusal(older)
    edit_tensors(older, WEIGHTS, put(kept[BUFFER], BUFFER))
    edit_tensors(older, WEIGHTS, put(np.ones(3, "f4"), "normalize_targets.buffer_action.min"))
    assert "have another min of action" in refusal(older)
    edit_json(older, CONFIG, put("QUANTILES", "normalization_mapping", "STATE"))
    assert "STATE must be one of MIN_MAX, MEAN_STD, IDENTITY, got 'QUANTILES'" in refusal(older)


def test_a_folder_of_0_3_without_its_statistics(older: Path, folder: Path) -> None:
    def stripped(content: Arrays) -> None:
        for key in [key for key in content if "normalize" in key]:
            del content[key]

    edit_tensors(older, WEIGHTS, stripped)
    words = refusal(older)
    assert "policy_preprocessor.json (0.4 and later) is missing" in words
    assert "observation.state cannot be normalised" in words
    edit_tensors(folder, WEIGHTS, put(np.zeros(4, "f4"), BUFFER))  # and one with both
    assert refusal(folder) == f"model.safetensors: {BUFFER} is unexpected"
    for file in (BEFORE, AFTER):
        (folder / file).unlink()
    edit_tensors(folder, WEIGHTS, without(BUFFER))
    assert "(0.4 and later) is missing" in refusal(folder)


CAMERA = ("input_features", "observation.image")
PICTURES: dict[str, tuple[Change, str]] = {
    "norm": (put(False, "use_group_norm"), "use_group_norm in config.json"),
    "separate": (
        put(True, "use_separate_rgb_encoder_per_camera"),
        "diffusion.rgb_encoder.0.backbone.0.weight is missing",
    ),
    "last": (put([96, 96, 3], *CAMERA, "shape"), "[3, height, width], channels first, got [96"),
    "gray": (put([1, 96, 96], *CAMERA, "shape"), "[3, height, width], channels first, got [1"),
    "crop": (put([100, 84], "crop_shape"), "crop_shape must fit into [96, 96], got [100, 84]"),
    "map": (put([96, 64], "crop_shape"), "rgb_encoder.pool.pos_grid must have shape [6, 2]"),
    "resize": (put([64, 64], "resize_shape"), "crop_shape must be None, as resize_shape=[64, 64]"),
    "keypoints": (
        put(16, "spatial_softmax_num_keypoints"),
        "must have shape [64, 100] by config.json, got [64, 164]",
    ),
    "another": (
        lambda c: c["input_features"].update(
            {"observation.images.b": {"type": "VISUAL", "shape": [3, 64, 96]}}
        ),
        "observation.images.b must have shape [3, 96, 96], as observation.image, got [3, 64, 96]",
    ),
    "same": (
        lambda c: c["input_features"].update(
            {"observation.images.image": {"type": "VISUAL", "shape": [3, 96, 96]}}
        ),
        "two cameras of input_features have one name here",
    ),
}


@pytest.mark.parametrize("mistake", PICTURES)
def test_pictures(mistake: str, pictures: Path) -> None:
    change, words = PICTURES[mistake]
    edit_json(pictures, CONFIG, change)
    assert words in refusal(pictures)


def test_norms_of_batches_are_not_read_as_norms_of_groups(tmp_path: Path) -> None:
    folder = write("v061_image2", tmp_path / "policy")
    edit_json(folder, CONFIG, put(True, "use_group_norm"))
    words = refusal(folder)
    assert "rgb_encoder.0.backbone.1.num_batches_tracked is unexpected (119 more: " in words
    assert words.endswith("use_group_norm in config.json says which are here")


def test_the_order_of_cameras_is_that_of_config_json(tmp_path: Path) -> None:
    folder = write("v061_image2", tmp_path / "policy")
    plain, recorded = load_policy(folder), expected("v061_image2")
    assert plain.obs_spec.images == ["image.wrist", "image.front"]

    def turned(content: dict[str, Any]) -> None:
        content["input_features"] = dict(reversed(content["input_features"].items()))

    edit_json(folder, CONFIG, turned)
    other = load_policy(folder)
    assert other.obs_spec.images == ["image.front", "image.wrist"]
    assert other.fingerprint() != plain.fingerprint()
    conds = [p.encode(observation(recorded)) for p in (plain, other)]
    assert float((conds[0] - conds[1]).abs().max()) > 0.1
    assert torch.equal(conds[0][..., :6], conds[1][..., :6])


def test_what_the_network_does_not_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Data of arms have efforts and velocities, which get into input_features."""
    plain = load_policy(folder)
    effort = {"observation.effort": {"type": "STATE", "shape": [7]}}
    edit_json(folder, CONFIG, lambda c: c["input_features"].update(effort))
    assert load_policy(folder).fingerprint() == plain.fingerprint()
    assert "observation.effort is an input that LeRobot's network does not read" in caplog.text


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_pickles_are_never_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pytorch_model.bin", "training_state.pth", "last.pkl"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    load_policy(folder)
    (folder / WEIGHTS).unlink()
    assert refusal(folder) == (
        "model.safetensors is missing (last.pkl, pytorch_model.bin, training_state.pth is not "
        "opened)"
    )
    assert not Path("ran").exists()


def test_a_training_gives_its_last_policy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    output = tmp_path / "outputs/train"
    steps = output / "checkpoints"
    first = write("v044_state", steps / "010000/pretrained_model")
    last = write("v033_state", steps / "200000/pretrained_model")
    for path in (output, steps, steps / "200000", last):
        assert load_policy(path).action_dim == 3
    assert f"{output}: taking {last}" in caplog.text
    assert load_policy(steps / "010000").action_dim == 2
    (steps / "last").symlink_to("010000")
    assert load_policy(output).action_dim == 2
    assert f"{output}: taking {steps / 'last/pretrained_model'}" in caplog.text
    shutil.rmtree(first)
    assert load_policy(output).action_dim == 3  # the link leads nowhere
    shutil.rmtree(last)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_policy(output)


def test_what_a_training_says_of_its_task(folder: Path) -> None:
    env = {"type": "pusht", "task": "PushT-v0", "fps": 10}
    (folder / "train_config.json").write_text(json.dumps({"env": env, "steps": 3}))
    policy = load_policy(folder)
    assert policy.config.task.name == "pusht"
    assert policy.obs_spec.control_hz == 10
    assert (
        policy.fingerprint() != load_policy(write("v044_state", folder.parent / "b")).fingerprint()
    )
    for said in (None, {"type": "libero", "fps": 30}):
        (folder / "train_config.json").write_text(json.dumps({"env": said}))
        policy = load_policy(folder)
        assert policy.config.task.name == ("libero" if said else "")
        assert policy.obs_spec.control_hz is None
    (folder / "train_config.json").write_text(json.dumps({"env": {**env, "fps": "10"}}))
    assert "train_config.json: env.fps must be a number above 0, got '10'" in refusal(folder)


def test_ddim_and_state_alone(folder: Path) -> None:
    def alone(content: dict[str, Any]) -> None:
        content["input_features"] = {STATE: {"type": "STATE", "shape": [4]}}
        content |= {"noise_scheduler_type": "DDIM", "num_inference_steps": 5}

    edit_json(folder, CONFIG, alone)
    cut = {k: v for k, v in weights_of("v044_state").items() if k.endswith("cond_encoder.1.weight")}
    for key, value in cut.items():
        cut[key] = np.ascontiguousarray(value[:, : 32 + 3 * 4])
    edit_tensors(folder, WEIGHTS, lambda c: c.update(cut))
    policy = load_policy(folder)
    assert policy.obs_spec.single
    assert (policy.config.sampler.kind, policy.table.timesteps.tolist()) == (
        "ddim",
        [16, 12, 8, 4, 0],
    )
    state = torch.from_numpy(expected("v044_state")[STATE])
    found = policy.encode(state)
    assert np.array_equal(found.numpy(), expected("v044_state")[f"normalised.{STATE}"])
    assert torch.equal(found, policy.encode({STATE: state}))
    actions = policy.act(state, noise(expected("v044_state")))
    assert actions.shape == (2, 6, 2)


def test_weights_of_an_average_are_not_there(folder: Path) -> None:
    assert load_policy(folder, weights="model").action_dim == 2
    with pytest.raises(CheckpointError, match="weights=ema is not there"):
        load_policy(folder, weights="ema")
