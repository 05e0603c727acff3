"""Our UNet policies as LeRobot's folders, and what does not fit into one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from policies import (
    DiffusionPolicy,
    PolicyConfig,
    UnsupportedPolicy,
    export_lerobot,
    from_reference,
    load_policy,
    save_policy,
)
from policies.encoders.config import EncoderConfig
from policies.lerobot.said import said_by
from runners.commands import exporting
from tests.helpers.lerobot_folder import CONFIG, expected, write
from tests.helpers.stock import live_policy
from tests.helpers.stock_unet import OBS, TO, live_unet
from tests.policies.test_lerobot import FOLDERS, noise, observation


@pytest.mark.parametrize("name", FOLDERS)
def test_what_lerobot_wrote_is_written_again(name: str, tmp_path: Path) -> None:
    policy = load_policy(write(name, tmp_path / "theirs"))
    export_lerobot(policy, tmp_path / "ours")
    again = load_policy(tmp_path / "ours")
    modes = {k: v.replace("_eps", "") for k, v in policy.config.normalization.items()}
    assert again.config == replace(policy.config, normalization=modes)
    assert again.state_dict().keys() == policy.state_dict().keys()
    for key, value in policy.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    recorded = expected(name)
    actions = (
        p.with_sampler("ddpm", 5).act(observation(recorded), noise(recorded))
        for p in (policy, again)
    )
    torch.testing.assert_close(*actions, atol=1e-8, rtol=0)


def test_the_files_are_those_of_lerobot(tmp_path: Path) -> None:
    """Settings and steps of pipelines have the names that 0.4.4 gave them, and no others."""
    theirs, ours = write("v044_image", tmp_path / "theirs"), tmp_path / "ours"
    export_lerobot(load_policy(theirs), ours)
    assert {p.name for p in ours.iterdir()} == {p.name for p in theirs.iterdir()}
    for name in (CONFIG, "policy_preprocessor.json", "policy_postprocessor.json"):
        found, wanted = (json.loads((f / name).read_text()) for f in (ours, theirs))
        assert found | {"push_to_hub": True} == wanted | {"push_to_hub": True}


def low_dim(**settings: Any) -> DiffusionPolicy:
    return from_reference(live_unet("global, scaled", **settings))


def test_a_policy_that_sees_one_array(tmp_path: Path) -> None:
    policy = low_dim()
    export_lerobot(policy, tmp_path / "policy", state_dim=2)
    again = load_policy(tmp_path / "policy")
    assert {k: v.shape for k, v in again.obs_spec.items()} == {
        "state": (2,),
        "environment_state": (OBS - 2,),
    }
    obs = torch.randn((3, TO, OBS), generator=torch.Generator().manual_seed(3))
    parts = {"observation.state": obs[..., :2], "observation.environment_state": obs[..., 2:]}
    torch.testing.assert_close(again.encode(parts), policy.encode(obs), atol=1e-6, rtol=0)
    ours, theirs = (
        p.act(o, torch.Generator().manual_seed(1)) for p, o in ((policy, obs), (again, parts))
    )
    torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=0)
    again = again.with_sampler("ddpm", 3)
    assert again.act(parts, torch.Generator()).isfinite().all()


def changed(config: PolicyConfig, path: str, value: Any) -> PolicyConfig:
    head, _, rest = path.partition(".")
    inner = replace(getattr(config, head), **{rest: value}) if rest else value
    return replace(config, **{head: inner})


PICTURES = EncoderConfig(
    {"state": [5], "image.a": [3, 64, 64]}, n_keypoints=4, feature_dim=8, relu=True
)
SETTINGS: dict[str, tuple[str, Any, str]] = {
    "next action": ("network.oa_step_convention", False, "it executes actions from the newest obs"),
    "short": ("pred_action_steps_only", True, "it predicts the whole horizon"),
    "length": ("network.horizon", 12, "multiple of 8 for 3 levels, got 12"),
    "ours": ("sampler.spacing", "trailing", "sampler.spacing='trailing' (it would be None)"),
    "variance": ("sampler.variance_type", "fixed_large", "sampler.variance_type='fixed_large'"),
    "offset": ("sampler.steps_offset", 1, "sampler.steps_offset=1 (it would be 0)"),
    "prediction": ("sampler.prediction_type", "v_prediction", "one of epsilon, sample, got 'v_pr"),
    "kind": ("sampler.kind", "dpmpp", "LeRobot has no sampler.kind=dpmpp (ddpm, ddim only)"),
}


@pytest.mark.parametrize("mistake", SETTINGS)
def test_a_setting_that_lerobot_cannot_have(mistake: str) -> None:
    path, value, words = SETTINGS[mistake]
    config = low_dim().config
    said_by(config, 2)
    with pytest.raises(ValueError, match=re.escape(words)):
        said_by(changed(config, path, value), 2)


ENCODERS: dict[str, tuple[dict[str, Any], str]] = {
    "pool": ({"pool": "average", "feature_dim": None, "relu": False}, "ends in a spatial softmax"),
    "linear": ({"feature_dim": 9}, "encoder.feature_dim=9 (it would be 8)"),
    "relu": ({"relu": False}, "encoder ends in a ReLU"),
    "resized": ({"antialias": False}, "encoder.antialias=False"),
    "crop": (
        {"resize": [60, 60], "crop": [50, 51]},
        "crop_shape must be [51, 51], as resize_shape=[60",
    ),
    "order": ({"arrays": {"image.a": [3, 64, 64], "state": [5]}}, "joins state, cameras, env"),
    "no state": ({"arrays": {"image.a": [3, 64, 64]}}, "must have observation.state"),
    "other": ({"arrays": {"state": [5], "image.a": [1, 64, 64]}}, "[3, height, width]"),
}


def seeing(encoder: EncoderConfig) -> PolicyConfig:
    config = low_dim().config
    network = replace(config.network, cond_dim=encoder.out_dim)
    return replace(config, network=network, obs_dim=encoder.out_dim, encoder=encoder)


@pytest.mark.parametrize("mistake", ENCODERS)
def test_an_encoder_that_lerobot_cannot_have(mistake: str) -> None:
    change, words = ENCODERS[mistake]
    said_by(seeing(PICTURES), None)
    with pytest.raises(ValueError, match=re.escape(words)):
        said_by(seeing(replace(PICTURES, **change)), None)


@pytest.mark.parametrize("size", [([72, 80], [61, 68]), ([96, 96], [84, 84]), ([60, 50], [36, 30])])
def test_a_crop_after_a_resize(size: tuple[list[int], list[int]]) -> None:
    resize, crop = size
    said, _ = said_by(seeing(replace(PICTURES, resize=resize, crop=crop)), None)
    assert [int(n * said["crop_ratio"]) for n in resize] == said["crop_shape"] == crop


def test_other_networks(tmp_path: Path) -> None:
    for live, words in (
        (live_unet("local"), r"network\.obs_as='local' \(it would be 'global'\): its network sees"),
        (live_unet("in-painting"), r"network\.obs_as='in-painting'"),
        (live_policy(), "a UNet, this one is of family transformer"),
    ):
        with pytest.raises(UnsupportedPolicy, match=words):
            export_lerobot(from_reference(live), tmp_path / "never", 2)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("n", [None, 0, OBS])
def test_the_numbers_of_the_state(n: int | None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"from 1 to {OBS - 1}, the others become .*, got {n}"):
        export_lerobot(low_dim(), tmp_path / "never", n)
    with pytest.raises(ValueError, match=r"of policies that see one array, .* state, image\.a"):
        said_by(seeing(PICTURES), 2)


def test_maps_that_lerobot_cannot_say(tmp_path: Path) -> None:
    policy = low_dim()
    policy.normalizer.params("obs")["offset"][3] = 1e6
    with pytest.raises(ValueError, match=r"obs: number 3 is normalised by scale .* offset 1e\+06"):
        export_lerobot(policy, tmp_path / "never", 2)
    policy = load_policy(write("v033_state", tmp_path / "older"))
    params = policy.normalizer.params("state")
    params["max"].copy_(params["min"] + 1e-6)
    with pytest.raises(ValueError, match=r"state is normalised as LeRobot 0\.3 does"):
        export_lerobot(policy, tmp_path / "never")
    cameras = load_policy(write("v061_image2", tmp_path / "cameras"))
    modes = {**cameras.config.normalization, "image.front": "identity"}
    other = DiffusionPolicy(replace(cameras.config, normalization=modes)).eval()
    with pytest.raises(ValueError, match=r"in one way, got MEAN_STD and IDENTITY of image\.front"):
        export_lerobot(other, tmp_path / "never")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_policy(low_dim(), tmp_path / "ours", torch.float32)
    ours, out = str(tmp_path / "ours"), str(tmp_path / "theirs")
    words = [ours, out, "--to", "lerobot", "--state-dim", "2"]
    assert exporting.run(words) == exporting.run(words) == 0
    assert load_policy(out).action_dim == 3
    assert exporting.run([ours, f"{out}.ckpt"]) == 0
    assert load_policy(f"{out}.ckpt").action_dim == 3
    assert f" MiB in {out}.ckpt\n" in capsys.readouterr().out
    assert exporting.run([ours, ours, *words[2:]]) == 2
    assert capsys.readouterr().err == (
        f"error: {ours} must be new, or of an earlier export, it holds policy.yaml\n"
    )
    assert exporting.run([out, f"{out}.ckpt"]) == 2
    assert "this one sees state, environment_state\n" in capsys.readouterr().err
