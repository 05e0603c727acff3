"""Checkpoints of diffusion_policy with images: its outputs, its names, what is refused.

tests/data/image_policies.npz holds what real-stanford/diffusion_policy (5ba07ac) computes with the
weights of tests/helpers/image_checkpoints.py, its robomimic 0.2.0 and torchvision's resizing
without antialiasing; robomimic 0.3.0 gives the same bits.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies import DiffusionPolicy, load_policy, policy_config, save_policy
from policies.config import PolicyConfig
from policies.reference.export import export_reference
from policies.reference.interpolation import resolve
from policies.reference.live import own_state
from tests.helpers.image_checkpoints import (
    ACT,
    CROP,
    KINDS,
    SIZE,
    TO,
    cfg_of,
    observations,
    state_of,
    write,
)
from tests.helpers.image_oracle import encoded
from tests.helpers.places import DATA
from tests.helpers.reader_files import read

EXPECTED = np.load(DATA / "image_policies.npz")


@pytest.fixture(scope="session")
def policy_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DiffusionPolicy]:
    @functools.cache
    def loaded(kind: str) -> DiffusionPolicy:
        path = write(tmp_path_factory.mktemp(kind) / "a.ckpt", cfg_of(kind), state_of(kind))
        policy = load_policy(path)
        path.unlink()
        return policy

    return loaded


def resolved(kind: str, **changes: Any) -> dict[str, Any]:
    return resolve(cfg_of(kind, **changes))


def config_of(kind: str, policy: Any = None, encoder: Any = None) -> PolicyConfig:
    return policy_config(resolved(kind, policy=policy, encoder=encoder))


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_reference_does(
    kind: str, policy_of: Callable[[str], DiffusionPolicy]
) -> None:
    policy, obs = policy_of(kind), observations(kind, 2)
    np.testing.assert_allclose(policy.encode(obs).numpy(), EXPECTED[f"{kind}_cond"], atol=1e-5)
    torch.manual_seed(7)
    result = policy.predict_action(obs)
    for name in ("action", "action_pred"):
        np.testing.assert_allclose(result[name].numpy(), EXPECTED[f"{kind}_{name}"], atol=1e-5)
    acted = policy.act(obs, torch.Generator().manual_seed(7))
    np.testing.assert_allclose(acted.numpy(), EXPECTED[f"{kind}_action"], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_encodes_what_the_keys_say(
    kind: str, policy_of: Callable[[str], DiffusionPolicy]
) -> None:
    obs = observations(kind, 3, seed=1)
    expected = encoded(kind, state_of(kind), obs)
    found = policy_of(kind).encode(obs)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_denoises_as_a_policy_without_images_does(
    kind: str, policy_of: Callable[[str], DiffusionPolicy]
) -> None:
    """The same network in a low-dimensional checkpoint, shown what the encoder gave."""
    policy, state = policy_of(kind), state_of(kind)
    dim = policy.obs_dim
    plain = DiffusionPolicy(
        PolicyConfig(
            policy.config.network, dim, ACT, policy.n_action_steps, sampler=policy.config.sampler
        )
    ).eval()
    plain.load_state_dict(
        {k: v for k, v in plain.state_dict().items() if ".obs." in k}
        | {
            k: v
            for k, v in state.items()
            if k.startswith(("model.", "normalizer.params_dict.act"))
            and not k.endswith("_dummy_variable")
        }
    )
    obs = observations(kind, 2, seed=2)
    cond = policy.encode(obs)
    found = policy.act(obs, torch.Generator().manual_seed(3))
    assert torch.equal(found, plain.act(cond, torch.Generator().manual_seed(3)))
    others = policy.act(observations(kind, 2, seed=4), torch.Generator().manual_seed(3))
    assert (found - others).abs().max() > 1e-3


SPECS = {
    "transformer": {"image.image": (3, *SIZE), "state": (2,)},
    "unet": {"image.wrist": (3, *SIZE), "pos": (3,), "image.agent": (3, *SIZE), "grip": (2,)},
    "image": {"image.agent": (3, *SIZE), "grip": (2,), "pos": (3,)},
    "shared": {"image.agent": (3, *SIZE), "image.wrist": (3, *SIZE), "grip": (2,), "pos": (3,)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_sees_has_our_names_in_the_order_of_the_reference(kind: str) -> None:
    config = config_of(kind)
    spec = config.obs_spec
    assert [(name, array.shape) for name, array in spec.items()] == list(SPECS[kind].items())
    assert {array.dtype for name, array in spec.items() if name in spec.images} == {"uint8"}
    assert config.task.name == "pusht_image"
    assert config.task.abs_action is True
    assert config.action_dim == ACT
    assert config.first_action == TO - 1
    assert (config.length, config.n_action_steps) == (8, 4)


@pytest.mark.parametrize("kind", ["transformer", "shared"])
def test_arrays_come_by_our_names_or_by_shape_metas(
    kind: str, policy_of: Callable[[str], DiffusionPolicy]
) -> None:
    policy, theirs = policy_of(kind), observations(kind, 2)
    aliases = policy.config.aliases
    ours = {aliases.get(name, name): array for name, array in theirs.items()}
    assert list(ours) != list(theirs)
    pixels = {k: v / 255 if v.dtype == torch.uint8 else v for k, v in theirs.items()}
    expected = policy.encode(theirs)
    for obs in (ours, pixels, dict(reversed(list(theirs.items())))):
        assert torch.equal(policy.encode(obs), expected)
    one = next(iter(theirs))
    with pytest.raises(ValueError, match=f"{aliases[one]} of .* is missing, other is not asked"):
        policy.encode({("other" if name == one else name): a for name, a in theirs.items()})


def test_one_of_the_two_names_of_a_weight_is_enough() -> None:
    cfg, state = resolved("transformer"), state_of("transformer")
    whole = own_state(state, cfg)
    for dropped in (("backbone.", "pool."), ("nets.0.", "nets.1.")):
        begins = tuple(f"obs_encoder.obs_nets.image.{part}" for part in dropped)
        fewer = {k: v for k, v in state.items() if not k.startswith(begins)}
        assert len(fewer) < len(state) - 60
        found = own_state(fewer, cfg)
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_temperature_divides_what_the_softmax_gets() -> None:
    cfg, state = resolved("transformer"), dict(state_of("transformer"))
    for part in ("pool", "nets.1"):
        state[f"obs_encoder.obs_nets.image.{part}.temperature"] = torch.tensor([0.25])
    config = policy_config(cfg)
    policy = DiffusionPolicy(config).eval()
    policy.load_state_dict(own_state(state, cfg))
    obs = observations("transformer", 2)
    expected = encoded("transformer", state, obs)
    plain = encoded("transformer", state_of("transformer"), obs)
    torch.testing.assert_close(policy.encode(obs), expected, atol=1e-5, rtol=1e-5)
    assert (expected - plain).abs().max() > 0.01
    without = {k: v for k, v in state.items() if "temperature" not in k}
    policy.load_state_dict(own_state(without, cfg))  # it is 1 where the file says nothing
    torch.testing.assert_close(policy.encode(obs), plain, atol=1e-5, rtol=1e-5)


def test_one_number_of_the_normaliser_stands_for_all_of_an_array() -> None:
    cfg, state = resolved("image"), dict(state_of("image"))
    for part in ("scale", "offset"):
        state[f"normalizer.params_dict.pos.{part}"] = torch.tensor([0.5])
    found = own_state(state, cfg)
    assert found["normalizer.params_dict.pos.scale"].tolist() == [0.5, 0.5, 0.5]
    image = found["normalizer.params_dict.image.agent.scale"]
    torch.testing.assert_close(image.flatten(), 2 / torch.tensor([0.229, 0.224, 0.225]).double())


PECULIAR: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "no crop without random_crop": (
        *("image", {}, {"random_crop": False, "crop_shape": CROP}),
        {"crop": None},
    ),
    "shared networks keep batch norms": (
        *("image", {}, {"share_rgb_model": True, "use_group_norm": True}),
        {"norm": "batch", "shared": True},
    ),
    "one size a camera": (
        *("shared", {}, {"resize_shape": {"agent": [60, 60], "wrist": [60, 60]}}),
        {"resize": [60, 60], "antialias": False},
    ),
    "no sizes": ("image", {}, {"crop_shape": None}, {"crop": None, "resize": None}),
    "another ResNet": (
        *("image", {}, {"rgb_model": {"_target_": "x.get_resnet", "name": "resnet50"}}),
        {"backbone": "resnet50"},
    ),
    "where its weights began": (
        *("image", {}),
        {"rgb_model": {"_target_": "x.get_resnet", "name": "resnet34", "weights": "r3m"}},
        {"backbone": "resnet34"},
    ),
    "no crop": ("transformer", {"crop_shape": None}, {}, {"crop": None}),
    "norm": ("transformer", {"obs_encoder_group_norm": False}, {}, {"norm": "batch"}),
}


@pytest.mark.parametrize("case", PECULIAR)
def test_settings_of_the_encoder(case: str, caplog: pytest.LogCaptureFixture) -> None:
    kind, policy, encoder, expected = PECULIAR[case]
    config = config_of(kind, policy, encoder).encoder
    assert config is not None
    assert {name: getattr(config, name) for name in expected} == expected
    assert not caplog.records


def test_what_a_class_has_where_a_file_says_nothing() -> None:
    cfg = resolved("unet")
    for name in ("diffusion_step_embed_dim", "down_dims", "kernel_size"):
        del cfg["policy"][name]
    net: Any = policy_config(cfg).network
    assert (net.down_dims, net.kernel_size, net.n_groups) == ([256, 512, 1024], 5, 8)
    assert (net.diffusion_step_embed_dim, net.cond_predict_scale) == (256, True)
    del cfg["policy"]["crop_shape"]
    with pytest.raises(ValueError, match=r"image\.wrist, which is 45 x 51, got 76 x 76"):
        policy_config(cfg)
    cfg = resolved("transformer")
    for name in ("n_layer", "n_head", "n_emb"):
        del cfg["policy"][name]
    net = policy_config(cfg).network
    assert (net.n_layer, net.n_head, net.n_emb, net.n_cond_layers) == (8, 4, 256, 0)
    assert (net.p_drop_attn, net.causal_attn, net.time_as_cond) == (0.3, True, True)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("transformer", {"policy": {"eval_fixed_crop": False}}, "eval_fixed_crop=false"),
        ("shared", {"encoder": {"resize_shape": [40, 60]}}, "without antialiasing"),
        ("shared", {"encoder": {"resize_shape": [60, 40]}}, "without antialiasing"),
        ("unet", {"policy": {"eval_fixed_crop": False}}, None),  # nothing is cropped
    ],
)
def test_what_differs_from_the_reference_is_said(
    kind: str, changes: Any, words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        policy_config(resolved(kind, **changes))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (words is not None)
    assert words is None or words in said[0]


def test_it_is_read_as_data_and_kept_as_our_folder(tmp_path: Path) -> None:
    state = state_of("transformer")
    raw = {name: value + 1 for name, value in state.items() if name.startswith("model.head")}
    path = write(tmp_path / "a.ckpt", cfg_of("transformer"), state, {**state, **raw})
    assert read(path).cfg["policy"]["shape_meta"]["obs"]["image"]["type"] == "rgb"  # nothing ran
    policy, obs = load_policy(path), observations("transformer", 2)
    acted = policy.act(obs, torch.Generator().manual_seed(0))
    save_policy(policy, tmp_path / "ours", torch.float32)
    again = load_policy(tmp_path / "ours")
    assert again.config == policy.config
    assert list(again.obs_spec) == ["image.image", "state"]
    assert torch.equal(again.act(obs, torch.Generator().manual_seed(0)), acted)
    live = load_policy(path, weights="model").act(obs, torch.Generator().manual_seed(0))
    assert not torch.equal(live, acted)
    trusted = load_policy(path, trust=True)
    assert trusted.fingerprint() == policy.fingerprint()
    with pytest.raises(ValueError, match=r"this one sees image\.image, state"):
        export_reference(policy, tmp_path / "b.ckpt")
