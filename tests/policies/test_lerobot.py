"""LeRobot's diffusion policies against what LeRobot 0.3.3, 0.4.4 and 0.6.1 computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from accel import DeepCacheConfig, accelerated
from policies import DiffusionPolicy, load_policy, save_policy
from tests.helpers.lerobot_folder import Arrays, expected, write

FOLDERS = ("v033_state", "v044_state", "v044_image", "v061_image2")
ATOL = 1e-4
SPECS = {
    "v033_state": {"state": (5,), "environment_state": (8,)},
    "v044_state": {"state": (4,), "environment_state": (6,)},
    "v044_image": {"state": (2,), "image.image": (3, 96, 96)},
    "v061_image2": {"state": (6,), "image.wrist": (3, 96, 96), "image.front": (3, 96, 96)},
}
CAMERAS = {"observation.image": "image.image"} | {
    f"observation.images.{name}": f"image.{name}" for name in ("wrist", "front")
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(name, tmp_path_factory.mktemp("lerobot") / name) for name in FOLDERS}


@pytest.fixture(scope="module")
def policies(folders: Mapping[str, Path]) -> dict[str, DiffusionPolicy]:
    return {name: load_policy(folder) for name, folder in folders.items()}


def observation(recorded: Arrays) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(value)
        for key, value in recorded.items()
        if key.startswith("observation.")
    }


def noise(recorded: Arrays, n: int = 2) -> list[torch.Generator]:
    seed = int(recorded["seed"])
    return [torch.Generator().manual_seed(seed + row) for row in range(n)]


def close(found: Tensor, recorded: np.ndarray) -> None:
    torch.testing.assert_close(found, torch.from_numpy(recorded), atol=ATOL, rtol=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_what_it_sees_and_does(name: str, policies: Mapping[str, DiffusionPolicy]) -> None:
    policy, recorded = policies[name], expected(name)
    assert {key: spec.shape for key, spec in policy.obs_spec.items()} == SPECS[name]
    assert list(policy.obs_spec) == list(SPECS[name])
    assert recorded["action"].shape[1:] == (policy.n_action_steps, policy.action_dim)
    assert recorded["action_normalised"].shape[1] == policy.horizon


@pytest.mark.parametrize("name", FOLDERS)
def test_the_condition(name: str, policies: Mapping[str, DiffusionPolicy]) -> None:
    policy, recorded = policies[name], expected(name)
    for key, ours in {
        "observation.state": "state",
        "observation.environment_state": "environment_state",
    }.items():
        if f"normalised.{key}" in recorded:
            found = policy.normalizer.normalize(ours, torch.from_numpy(recorded[key]))
            assert np.array_equal(found.numpy(), recorded[f"normalised.{key}"])
    close(policy.encode(observation(recorded)).flatten(1), recorded["global_cond"])
    by_our_names = {
        {**CAMERAS, "observation.state": "state"}.get(key, "environment_state"): value
        for key, value in observation(recorded).items()
    }
    close(policy.encode(by_our_names).flatten(1), recorded["global_cond"])


@pytest.mark.parametrize("name", FOLDERS)
def test_one_call_of_the_network(name: str, policies: Mapping[str, DiffusionPolicy]) -> None:
    policy, recorded = policies[name], expected(name)
    x, t, cond = (torch.from_numpy(recorded[k]) for k in ("unet_x", "unet_t", "global_cond"))
    with torch.no_grad():
        found = policy.model(x, t, cond.unflatten(1, (policy.n_obs_steps, -1)))
    close(found, recorded["unet_out"])


@pytest.mark.parametrize("name", FOLDERS)
def test_a_query(name: str, policies: Mapping[str, DiffusionPolicy]) -> None:
    policy, recorded = policies[name], expected(name)
    assert policy.table.timesteps.tolist() == recorded["timesteps"].tolist()
    entered: list[Tensor] = []
    hook = policy.model.register_forward_pre_hook(lambda _, args: entered.append(args[0].clone()))
    try:
        last = policy.sample(observation(recorded), noise(recorded))
    finally:
        hook.remove()
    close(torch.stack([*entered, last], dim=1), recorded["trajectory"])
    close(last, recorded["action_normalised"])
    close(policy.act(observation(recorded), noise(recorded)), recorded["action"])
    with accelerated(policy, engine="reference") as fast:
        close(fast.act(observation(recorded), noise(recorded)), recorded["action"])


@pytest.mark.parametrize("name", FOLDERS)
def test_our_own_folder_gives_the_same_actions(
    name: str, policies: Mapping[str, DiffusionPolicy], tmp_path: Path
) -> None:
    policy, recorded = policies[name].with_sampler("ddpm", 5), expected(name)
    save_policy(policy, tmp_path / "policy", torch.float32)
    again = load_policy(tmp_path / "policy")
    assert again.config == policy.config
    assert list(again.obs_spec) == list(policy.obs_spec)
    assert again.fingerprint() == policy.fingerprint()
    found = again.act(observation(recorded), noise(recorded))
    assert torch.equal(found, policy.act(observation(recorded), noise(recorded)))


@pytest.mark.parametrize("name", FOLDERS)
def test_it_is_made_cheaper_as_any_unet(name: str, policies: Mapping[str, DiffusionPolicy]) -> None:
    policy, recorded = policies[name], expected(name)
    plain = policy.act(observation(recorded), noise(recorded))
    with accelerated(policy, cache=DeepCacheConfig(compute_interval=2)) as fast:
        cached = fast.act(observation(recorded), noise(recorded))
        assert 0 < np.sum(fast.stats()["computed"]) < np.size(fast.stats()["computed"])
    assert cached.shape == plain.shape
    assert 0 < float((cached - plain).abs().max()) < 10
    with accelerated(policy, sampler="ddpm", steps=5) as short:
        few = short.act(observation(recorded), noise(recorded))
        assert len(short.stats()["computed"]) == 5
    assert few.isfinite().all()
    assert not torch.equal(few, plain)
