"""Checkpoints of robomimic 0.5's diffusion_policy: its outputs, and what is refused.

tests/data/image_policies.npz holds what its own classes (v0.5.0) compute with the weights of
tests/helpers/robomimic_checkpoints.py, pixels and statistics prepared as its rollouts do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies import CheckpointError, DiffusionPolicy, UnsupportedPolicy, load_policy
from policies.reference import robomimic
from runners.jobs.checkpoint import task_in
from tests.helpers.image_checkpoints import ACT, SIZE
from tests.helpers.places import DATA
from tests.helpers.reader_files import Gadget
from tests.helpers.robomimic_checkpoints import ARRAYS, SMALL, observations, payload_of

EXPECTED = np.load(DATA / "image_policies.npz")
Payload = dict[str, Any]
# recorded on AVX-512; torch's convolutions on AVX2 round otherwise, and sampling makes 2e-4 of it
ATOL = 5e-5 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 5e-4


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setitem(robomimic.UNET, name, value)


def loaded(path: Path, payload: Payload, weights: str = "auto") -> DiffusionPolicy:
    torch.save(payload, path)
    return load_policy(path, weights)


def test_its_network_has_one_size() -> None:
    """Whatever the config says, as in robomimic."""
    sizes = {name: robomimic.UNET[name] for name in ("n_groups", "cond_predict_scale")}
    assert sizes == {"n_groups": 8, "cond_predict_scale": True}


@pytest.mark.parametrize("kind", ARRAYS)
def test_it_computes_what_robomimic_does(kind: str, tmp_path: Path) -> None:
    policy = loaded(tmp_path / "model_epoch_3.pth", payload_of(kind))
    obs: Any = observations(kind, 2)
    if kind == "numbers":
        assert policy.obs_spec.single
        obs = torch.cat(list(obs.values()), dim=-1)
        assert policy.config.sampler.kind == "ddim"
    else:
        shapes = {"grip": (2,), "pos": (3,), "image.wrist": (3, *SIZE)}
        assert {name: array.shape for name, array in policy.obs_spec.items()} == shapes
        assert list(policy.obs_spec) == list(shapes)
    cond = policy.encode(obs)
    np.testing.assert_allclose(cond.numpy(), EXPECTED[f"robomimic_{kind}_cond"], atol=1e-5)
    acted = policy.act(obs, torch.Generator().manual_seed(7))
    np.testing.assert_allclose(acted.numpy(), EXPECTED[f"robomimic_{kind}_action"], atol=ATOL)
    assert (policy.action_dim, policy.n_action_steps, policy.horizon) == (ACT, 4, 8)


def test_weights_are_the_average_where_there_is_one(tmp_path: Path) -> None:
    payload = payload_of("numbers")
    path = tmp_path / "a.pth"
    average, raw = loaded(path, payload), loaded(path, payload, "model")
    assert not torch.equal(average.model.final_conv[1].bias, raw.model.final_conv[1].bias)
    payload["model"]["ema"] = None
    with pytest.raises(CheckpointError, match=r"weights=ema needs state_dicts\.ema_model"):
        loaded(path, payload, "ema")
    config = json.loads(payload["config"])
    config["algo"]["ema"]["enabled"] = False
    payload["config"] = json.dumps(config)
    assert torch.equal(loaded(path, payload).model.final_conv[1].bias, raw.model.final_conv[1].bias)


def test_without_statistics_numbers_stay_as_they_are(tmp_path: Path) -> None:
    payload = payload_of("numbers")
    del payload["obs_normalization_stats"], payload["action_normalization_stats"]
    policy = loaded(tmp_path / "a.pth", payload)
    obs = torch.cat(list(observations("numbers", 2).values()), dim=-1)
    assert torch.equal(policy.encode(obs), obs)
    assert float(policy.act(obs, torch.Generator().manual_seed(0)).abs().max()) <= 1


@pytest.mark.parametrize(
    ("version", "name"), [("1.4.1", "lift"), ("1.5.1", "lift1.5.1"), (None, "lift")]
)
def test_a_world_of_another_simulator_is_no_task_of_ours(
    version: str | None, name: str, tmp_path: Path
) -> None:
    payload = payload_of("numbers")
    payload["env_metadata"] = {"env_name": "Lift", "env_version": version}
    task = loaded(tmp_path / "a.pth", payload).config.task
    assert (task.name, task.abs_action) == (name, None)
    assert task_in(task.name) == ("lift" if name == "lift" else None)
    world = {"controller_configs": {"type": "OSC_POSE", "control_delta": True}}
    payload["env_metadata"]["env_kwargs"] = world
    assert loaded(tmp_path / "a.pth", payload).config.task.abs_action is False


def config(change: Callable[[Any], object]) -> Callable[[Payload], object]:
    def changed(payload: Payload) -> None:
        said = json.loads(payload["config"])
        change(said)
        payload["config"] = json.dumps(said)

    return changed


def rgb(**settings: Any) -> Callable[[Payload], object]:
    return config(lambda c: c["observation"]["encoder"]["rgb"].update(settings))


def net(**settings: Any) -> Callable[[Payload], object]:
    return rgb(core_kwargs=settings)


MISTAKES: dict[str, tuple[str, Callable[[Payload], object], str]] = {
    "algorithm": (
        *("numbers", lambda p: p.update(algo_name="bc")),
        "robomimic's bc policies are not supported: of its algorithms, diffusion_policy is",
    ),
    "transformer": (
        *("numbers", config(lambda c: c["algo"]["unet"].update(enabled=False))),
        "algo.unet.enabled=false is not supported",
    ),
    "rotations": (
        "numbers",
        config(lambda c: c["train"]["action_config"]["actions/pos"].update(format="rot_6d")),
        "train.action_config.actions/pos.format=rot_6d is not supported",
    ),
    "depth": (
        *("image", config(lambda c: c["observation"]["modalities"]["obs"].update(depth=["d"]))),
        "observation.modalities.obs.depth must be empty, got ['d']",
    ),
    "shapes": (
        *("image", lambda p: p["shape_metadata"]["all_shapes"].pop("pos")),
        "shape_metadata.all_shapes.pos must have 1 sizes, got None",
    ),
    "backbone": (
        *("image", net(backbone_class="R3MConv")),
        "observation.encoder.rgb.core_kwargs.backbone_class must be ResNet18Conv, got R3MConv",
    ),
    "coordinates": (
        *("image", net(backbone_kwargs={"pretrained": True, "input_coord_conv": True})),
        "core_kwargs.backbone_kwargs.input_coord_conv must be False, got True",
    ),
    "keypoints": (
        *("image", net(pool_kwargs={"num_kp": 64})),
        "core_kwargs.pool_kwargs.num_kp must be 32, got 64",
    ),
    "no pool": ("image", net(pool_class=None), "core_kwargs.pool_class must be SpatialSoftmax"),
    "unknown": ("image", net(dropout=0.1), "core_kwargs.dropout is not known to this project"),
    "language": (
        *("image", rgb(core_class="VisualCoreLanguageConditioned")),
        "encoder.rgb.core_class must be VisualCore, got VisualCoreLanguageConditioned",
    ),
    "colors": (
        *("image", rgb(obs_randomizer_class="ColorRandomizer")),
        "obs_randomizer_class must be CropRandomizer without pos_enc, or null, got ColorRand",
    ),
    "center": (
        *("image", rgb(obs_randomizer_kwargs={"crop_height": 38, "crop_width": 44})),
        "robomimic crops 45 pixels to 38 from 3 on, this project from 4 on",
    ),
    "sampler": (
        *("numbers", config(lambda c: c["algo"]["ddim"].update(guidance=1))),
        "noise_scheduler.guidance=1 is not a setting this project knows",
    ),
    "statistics": (
        *("numbers", lambda p: p.update(obs_normalization_stats={"pos": {}})),
        "'object' is missing",
    ),
    "scales": (
        "numbers",
        lambda p: p.update(
            action_normalization_stats={
                k: {"offset": [[0.0]], "scale": [[1.0]]} for k in ("actions/pos", "actions/grip")
            }
        ),
        "action_normalization_stats must hold 3 offsets, and as many scales above 0",
    ),
    "statistics of images": (
        "image",
        lambda p: p.update(
            obs_normalization_stats={
                k: {"offset": [[0.0] * n], "scale": [[1.0] * n]}
                for k, n in {"grip": 2, "pos": 3}.items()
            }
        ),
        "obs_normalization_stats beside images are not supported",
    ),
    "a weight": (
        "image",
        lambda p: p["model"].update(
            ema={k: v for k, v in p["model"]["ema"].items() if "nets.3.bias" not in k}
        ),
        "camera wrist: out.bias is missing",
    ),
    "a part": (
        "numbers",
        lambda p: p["model"].update(ema={**p["model"]["ema"], "policy.x": torch.ones(1)}),
        "model: policy.x is not known to this project",
    ),
    "config": ("numbers", lambda p: p.update(config="{"), "Expecting property name"),
    "no config": ("numbers", lambda p: p.update(config="{}"), "'algo' is missing"),
    "malformed": ("numbers", lambda p: p.update(config='{"algo": []}'), "indices must be integers"),
    "encoder": (
        *("image", config(lambda c: c["observation"]["encoder"].update(rgb="x"))),
        "indices must be integers",
    ),
    "kinds": (
        *("image", config(lambda c: c["observation"]["modalities"].update(obs=[]))),
        "its config is malformed",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_not_run_is_refused(mistake: str, tmp_path: Path) -> None:
    kind, change, words = MISTAKES[mistake]
    payload = payload_of(kind)
    change(payload)
    with pytest.raises((UnsupportedPolicy, CheckpointError)) as error:
        loaded(tmp_path / "a.pth", payload)
    assert words in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["payload", "env_metadata", "variable_state", "model"])
def test_nothing_of_it_is_run(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    payload = payload_of("numbers")
    part = payload if where == "payload" else payload[where]
    part["hook"] = Gadget(os.system, "touch ran")
    with pytest.raises(CheckpointError, match=r"asks for posix\.system, which is not allowed"):
        loaded(tmp_path / "a.pth", payload)
    assert not (tmp_path / "ran").exists()
