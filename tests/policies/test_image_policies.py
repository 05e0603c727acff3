"""Policies that see images: from observations to actions, files, twins, fingerprints."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor

from accel import UniformConfig, accelerated
from policies import (
    CheckpointError,
    DiffusionPolicy,
    PolicyConfig,
    UnetConfig,
    export_reference,
    from_reference,
    load_policy,
    save_policy,
)
from policies.data.normalizer import Normalizer
from policies.encoders.config import EncoderConfig
from policies.undrawn import shared
from tests.helpers.places import PROJECT
from tests.helpers.seeing import ACT, ARRAYS, SAMPLER, TO, encoder_config, image_policy, noise
from tests.helpers.seeing import observation as observed
from tests.helpers.stock import live_policy

ALIASES = {
    "observation.state": "state",
    "observation.images.top": "image.top",
    "agentview_image": "image.wrist",
}
NETWORKS = ("unet", "transformer")


@pytest.fixture(scope="module")
def policies() -> dict[str, DiffusionPolicy]:
    return {network: image_policy(network, ALIASES) for network in NETWORKS}


@pytest.fixture(scope="module")
def policy(policies: dict[str, DiffusionPolicy]) -> DiffusionPolicy:
    return policies["unet"]


@pytest.mark.parametrize("network", NETWORKS)
def test_observations_to_actions(policies: dict[str, DiffusionPolicy], network: str) -> None:
    policy, obs = policies[network], observed(3)
    assert list(policy.obs_spec) == list(ARRAYS)
    assert str(policy.obs_spec["image.wrist"]) == "3 x 42 x 40 pixels"
    assert policy.obs_dim == 16
    cond = policy.encode(obs)
    assert cond.shape == (3, TO, 16)
    actions = policy.act(obs, noise(0, 1, 2))
    assert actions.shape == (3, 4, ACT)
    assert torch.equal(policy.denoise(cond, noise(0, 1, 2)), actions)
    assert not torch.allclose(
        policy.act({**obs, "image.top": 255 - obs["image.top"]}, noise(0, 1, 2)), actions
    )
    assert policy.sample(obs, noise(0, 1, 2)).shape == (3, 8, ACT)


def test_what_is_encoded_is_each_array_by_its_own_map(policy: DiffusionPolicy) -> None:
    obs = observed(2)
    params = policy.normalizer.params("image.top")
    assert params["scale"].shape == params["input_stats"]["mean"].shape == (3, 1, 1)
    assert policy.normalizer.params("state")["scale"].shape == (4,)
    normalised = {}
    for name, array in obs.items():
        scale, offset = (policy.normalizer.params(name)[key] for key in ("scale", "offset"))
        normalised[name] = (array.float() / (255 if "image" in name else 1)) * scale + offset
    assert policy.encoder is not None
    with torch.no_grad():
        expected = policy.encoder(normalised)
    assert torch.equal(policy.encode(obs), expected)
    assert torch.equal(policy.encode(obs)[..., 6:10], normalised["state"])


def test_names_of_the_checkpoint_and_floats_give_the_same_bits(policy: DiffusionPolicy) -> None:
    obs = observed(2)
    theirs = dict(
        zip(("observation.images.top", "state", "agentview_image"), obs.values(), strict=True)
    )
    floats = {k: v / 255 if v.dtype == torch.uint8 else v for k, v in theirs.items()}
    expected = policy.act(obs, noise(0, 1))
    assert torch.equal(policy.act(theirs, noise(0, 1)), expected)
    assert torch.equal(policy.act(floats, noise(0, 1)), expected)


def test_what_does_not_fit_is_refused_before_anything_is_drawn(policy: DiffusionPolicy) -> None:
    obs, generators = observed(2), noise(0, 1)
    for bad, words in (
        ({**obs, "image.top": obs["image.top"].float()}, "image.top must be uint8, or floats in"),
        ({"state": obs["state"]}, "image.top of 3 x 48 x 44 pixels is missing"),
        (obs["state"], "obs must be a mapping with image.top, state, image.wrist"),
        ({**obs, "state": obs["state"][:, :1]}, r"state must have shape \(B, 2, 4\)"),
    ):
        with pytest.raises(ValueError, match=words):
            policy.act(bad, generators)
        with pytest.raises(ValueError, match=words):
            policy.encode(bad)
        with pytest.raises(ValueError, match=words):
            policy.check(bad, generators)
    with pytest.raises(ValueError, match=r"one generator per row \(2\), got 1"):
        policy.check(obs, generators[:1])
    assert torch.equal(generators[0].get_state(), noise(0)[0].get_state())


def test_predict_action_takes_arrays_directly_or_as_obs(policy: DiffusionPolicy) -> None:
    obs = observed(2)
    longer = {name: torch.cat([array, array[:, :1]], dim=1) for name, array in obs.items()}
    expected = policy.act(obs, torch.Generator().manual_seed(7))
    for given in (obs, {"obs": obs}, longer, {"obs": longer}):
        torch.manual_seed(7)
        result = policy.predict_action(given)
        assert torch.equal(result["action"], expected)
        assert result["action_pred"].shape == (2, 8, ACT)
    with pytest.raises(ValueError, match=r"image.wrist of 3 x 42 x 40 pixels is missing"):
        policy.predict_action({"obs": {k: v for k, v in obs.items() if k != "image.wrist"}})


def test_twins_share_weights_and_nothing_else(policy: DiffusionPolicy) -> None:
    twin = policy.with_sampler("ddpm", 2)
    ours, theirs = policy.state_dict(), twin.state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    assert twin.encoder is not policy.encoder
    assert torch.equal(twin.encode(observed(1)), policy.encode(observed(1)))
    assert twin.fingerprint() != policy.fingerprint()
    assert twin.with_sampler(policy.config.sampler).fingerprint() == policy.fingerprint()
    twin.to("meta").train()  # elsewhere, and the policy stays
    assert policy.device.type == "cpu"
    assert all(not p.is_meta for p in policy.parameters())
    assert policy.encoder is not None
    assert not policy.encoder.training
    assert policy.with_n_action_steps(2).act(observed(1), noise(0)).shape == (1, 2, ACT)


def test_an_encoder_of_another_kind_stays_on_twins(policy: DiffusionPolicy) -> None:
    """As a quantised one does, which no config describes."""

    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("gain", torch.ones(16))

        def forward(self, arrays: dict[str, Tensor]) -> Tensor:
            return arrays["state"].repeat(1, 1, 4) * self.gain  # type: ignore[operator]

    other = DiffusionPolicy(policy.config, Other()).eval()
    assert other.n_encoder_parameters == 0
    twin = other.with_sampler("ddpm", 2)
    assert isinstance(twin.encoder, Other)
    assert torch.equal(twin.encode(observed(1)), other.encode(observed(1)))
    assert other.fingerprint() != policy.fingerprint()


def test_a_shared_copy_has_parameters_of_its_own() -> None:
    layer = torch.nn.BatchNorm1d(3)
    twin = shared(layer)
    assert twin.weight is not layer.weight
    assert twin.running_mean is not layer.running_mean
    with torch.no_grad():
        layer.weight.fill_(5)
        layer.running_mean.fill_(2)  # type: ignore[union-attr]
    assert twin.weight.tolist() == [5, 5, 5]
    assert twin.running_mean.tolist() == [2, 2, 2]  # type: ignore[union-attr]
    assert twin.weight.requires_grad


def test_fingerprints_know_the_order_of_arrays_and_the_weights() -> None:
    arrays = {"state": [3], "environment_state": [3]}
    turned = dict(reversed(arrays.items()))
    made = [_numbers(order) for order in (arrays, turned)]
    made[1].load_state_dict(made[0].state_dict())
    obs = {name: torch.randn(1, TO, 3) for name in arrays}
    assert not torch.equal(made[0].encode(obs), made[1].encode(obs))
    assert made[0].fingerprint() != made[1].fingerprint()
    before = made[0].fingerprint()
    with torch.no_grad():
        made[0].normalizer.params("state")["scale"] += 1
    assert made[0].fingerprint() != before
    assert copy.deepcopy(made[0]).fingerprint() == made[0].fingerprint()


def _numbers(arrays: dict[str, list[int]], **settings: Any) -> DiffusionPolicy:
    sizes = UnetConfig(ACT, 8, TO, "global", 6, [8, 16], 8, n_groups=4)
    config = PolicyConfig(
        sizes, 6, ACT, 4, sampler=SAMPLER, encoder=EncoderConfig(arrays), **settings
    )
    return DiffusionPolicy(config).eval()


def test_two_arrays_of_numbers_without_images() -> None:
    policy = _numbers({"state": [4], "environment_state": [2]})
    obs = {"environment_state": torch.randn(1, TO, 2), "state": torch.randn(1, TO, 4)}
    cond = policy.encode(obs, [{}])
    assert torch.equal(cond, torch.cat([obs["state"], obs["environment_state"]], dim=-1))
    assert (policy.encode_flops, policy.n_encoder_parameters) == (0, 0)
    assert policy.act(obs, noise(0)).shape == (1, 4, ACT)
    single = _numbers({"state": [6]})
    assert single.obs_spec.single
    assert torch.equal(single.encode(cond), single.encode({"state": cond}))


def test_costs(policy: DiffusionPolicy) -> None:
    assert policy.encoder is not None
    assert policy.n_encoder_parameters == sum(p.numel() for p in policy.encoder.parameters())
    assert policy.n_encoder_parameters == 2 * (11_176_512 + 512 * 4 + 4 + 8 * 6 + 6)
    lowdim = load_policy(PROJECT / "checkpoints/kitchen")
    assert (lowdim.encode_flops, lowdim.n_encoder_parameters, lowdim.encoder) == (0, 0, None)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        policy.encode(observed(1))
    assert counter.get_total_flops() == policy.encode_flops


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_folder_and_back(tmp_path: Path, norm: str) -> None:
    policy = image_policy(norm=norm, aliases=ALIASES, resize=[44, 44])
    save_policy(policy, tmp_path)
    raw = OmegaConf.to_container(OmegaConf.load(tmp_path / "policy.yaml"))
    assert isinstance(raw, dict)
    assert list(raw["encoder"]["arrays"]) == list(ARRAYS)
    assert raw["aliases"] == ALIASES
    state = load_file(tmp_path / "weights.safetensors")
    assert state["encoder.nets.0.backbone.0.weight"].dtype == torch.float16
    exact = [k for k in state if k.startswith("normalizer") or "running" in k or "pos_grid" in k]
    assert len([k for k in exact if "running" in k]) == (80 if norm == "batch" else 0)
    ours = policy.state_dict()
    for name in exact:
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], ours[name])
    loaded = load_policy(tmp_path)
    assert loaded.config == policy.config
    assert list(loaded.obs_spec) == list(policy.obs_spec)
    torch.testing.assert_close(
        loaded.encode(observed(1)), policy.encode(observed(1)), atol=5e-3, rtol=0
    )
    save_policy(loaded, tmp_path / "again")
    assert load_policy(tmp_path / "again").fingerprint() == loaded.fingerprint()
    save_policy(policy, tmp_path / "whole", torch.float32)
    assert load_policy(tmp_path / "whole").fingerprint() == policy.fingerprint()


def test_large_statistics_survive_float16(tmp_path: Path) -> None:
    policy = image_policy()
    state = policy.state_dict()
    name = "encoder.nets.0.backbone.1.running_var"
    state[name].fill_(1e6)  # float16 ends at 65504
    state["encoder.nets.1.backbone.1.num_batches_tracked"].fill_(123_457)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path).state_dict()
    assert loaded[name].unique().tolist() == [1e6]
    assert int(loaded["encoder.nets.1.backbone.1.num_batches_tracked"]) == 123_457


def edited(folder: Path, change: Any) -> None:
    path = folder / "policy.yaml"
    raw = OmegaConf.to_container(OmegaConf.load(path))
    change(raw)
    OmegaConf.save(OmegaConf.create(raw), path)


def test_files_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    save_policy(image_policy(aliases=ALIASES), tmp_path)
    whole = (tmp_path / "policy.yaml").read_bytes()
    for change, words in (
        (lambda raw: raw["encoder"].update(norm="group"), "Unexpected key.*running_mean"),
        (
            lambda raw: raw["encoder"].update(shared=True),
            "shared=true needs images of one size|Unex",
        ),
        (lambda raw: raw["encoder"].update(backbone="resnet34"), "Missing key"),
        (lambda raw: raw["encoder"].update(n_keypoints=5), "size mismatch"),
        (lambda raw: raw["encoder"].update(crop=[40, 30]), "size mismatch for .*pos_grid"),
        (lambda raw: raw["encoder"].update(crop=[90, 90]), "encoder.crop must fit into image.top"),
        (lambda raw: raw["encoder"].update(magic=1), "unexpected keyword argument 'magic'"),
        (
            lambda raw: raw["encoder"]["arrays"].update(state=[5]),
            "obs_dim must be the encoder's 17",
        ),
        (lambda raw: raw.update(encoder=None), "encoder must be a mapping"),
        (lambda raw: raw["aliases"].update(depth="image.depth"), "got depth: image.depth"),
        (lambda raw: raw["aliases"].update(state="image.top"), "got state: image.top"),
        (lambda raw: raw.update(aliases=3), "aliases must be other names for image.top, .* got 3"),
        (lambda raw: raw["aliases"].update(x=3), "aliases must be other names .* got x: 3"),
        (lambda raw: raw["aliases"].update(x=None), "aliases must be other names .* got x: None"),
    ):
        edited(tmp_path, change)
        with pytest.raises(CheckpointError, match=words) as error:
            load_policy(tmp_path)
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)
        (tmp_path / "policy.yaml").write_bytes(whole)
    assert load_policy(tmp_path).config.aliases == ALIASES


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_statistics_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    save_policy(image_policy(), tmp_path)
    state = load_file(tmp_path / "weights.safetensors")
    state["encoder.nets.1.backbone.4.0.bn1.running_mean"][3] = value
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"nets\.1\.backbone\.4\.0\.bn1\.running_mean holds"):
        load_policy(tmp_path)


def test_configs_that_contradict_themselves_are_refused() -> None:
    config = image_policy().config
    with pytest.raises(
        ValueError, match="obs_dim must be the encoder's 16 numbers of one step, got 5"
    ):
        replace(config, obs_dim=5)
    painted = UnetConfig(ACT + 16, 8, TO, "in-painting", 0, [8, 16], 8, n_groups=4)
    with pytest.raises(ValueError, match="an encoder needs a network with observations as a cond"):
        replace(config, network=painted)
    for aliases in ({"state": "image.top"}, {"state": "state"}, {"x": "image.front"}):
        with pytest.raises(ValueError, match=r"aliases must be other names for image.top, st"):
            replace(config, aliases=aliases)
    lowdim = load_policy(PROJECT / "checkpoints/kitchen").config
    with pytest.raises(ValueError, match="aliases must be other names for state, got x: obs"):
        replace(lowdim, aliases={"x": "obs"})


def test_policies_of_one_array_are_written_and_hashed_as_before() -> None:
    policy = from_reference(live_policy())
    assert not {"encoder", "aliases"} & set(policy.config.settings())
    json.dumps(image_policy().config.settings())
    obs = torch.randn(1, policy.n_obs_steps, policy.obs_dim)
    expected = policy.act(obs, noise(0))
    assert torch.equal(policy.act({"state": obs}, noise(0)), expected)
    called = DiffusionPolicy(replace(policy.config, aliases={"observation.state": "state"})).eval()
    called.load_state_dict(policy.state_dict())
    assert torch.equal(called.act({"observation.state": obs}, noise(0)), expected)
    for bad, words in (
        ({"obs": obs}, "state of 5 numbers is missing, obs is not asked for"),
        ({"state": obs[..., :3]}, r"state must have shape \(B, 2, 5\)"),
    ):
        with pytest.raises(ValueError, match=words):
            policy.act(bad, noise(0))


def test_fields_of_the_normaliser_are_nested_where_names_have_points() -> None:
    normalizer = Normalizer({"image.top": (3, 1, 1), "image.top.left": 2, "state": 4})
    keys = [f"params_dict.{name}.scale" for name in ("image.top", "image.top.left", "state")]
    assert [key for key in normalizer.state_dict() if key.endswith("scale")] == keys
    again = Normalizer({"image.top": (3, 1, 1), "image.top.left": 2, "state": 4})
    again.load_state_dict({k: v + 2 for k, v in normalizer.state_dict().items()})
    assert again.normalize("image.top", torch.ones(1, 3, 2, 2)).unique().tolist() == [5]
    assert again.unnormalize("image.top.left", torch.full((2,), 5.0)).tolist() == [1, 1]
    for name in ("image.scale", "image.values", "image..x", "keys"):
        with pytest.raises(ValueError, match="cannot be the name of a field"):
            Normalizer({name: 2})


def test_it_is_not_written_as_a_lowdim_checkpoint(tmp_path: Path, policy: DiffusionPolicy) -> None:
    with pytest.raises(ValueError, match=r"this one sees image.top, state, image.wrist"):
        export_reference(policy, tmp_path / "x.ckpt")


@pytest.mark.parametrize("network", NETWORKS)
def test_it_is_accelerated_as_others_are(
    policies: dict[str, DiffusionPolicy], network: str
) -> None:
    policy, obs = policies[network], observed(2)
    plain = policy.act(obs, noise(0, 1))
    with accelerated(policy) as fast:
        found = fast.act(obs, noise(0, 1), memory=[{}, {}])
        torch.testing.assert_close(found, plain, atol=1e-3, rtol=1e-3)
        assert list(fast.obs_spec) == list(ARRAYS)
    with accelerated(policy, cache=UniformConfig(steps=2), sampler="ddpm", steps=3) as fast:
        assert fast.act(obs, noise(0, 1)).isfinite().all()


def test_training_mode_crops_elsewhere_each_time() -> None:
    policy = image_policy()
    obs = {k: v.float() / 255 if "image" in k else v for k, v in observed(2).items()}
    with pytest.raises(RuntimeError, match="training mode"):
        policy.train().act(obs, noise(0, 1))
    assert policy.encoder is not None
    found = policy.encoder(obs)
    found.sum().backward()
    assert found.shape == (2, TO, encoder_config().out_dim)
    assert not torch.equal(policy.encoder(obs), found)
    assert all(p.grad is not None for p in policy.encoder.parameters())
