"""A batch of no rows has actions of no rows, whatever computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from accel import ENGINES, RtnConfig, UniformConfig, accelerated
from accel.robot import accelerate
from policies import DiffusionPolicy, from_reference
from tests.helpers.quant_data import policy_statistics
from tests.helpers.quant_data import small_policy as quantisable
from tests.helpers.seeing import image_policy, observation
from tests.helpers.stock import small_policy
from tests.helpers.stock_unet import live_unet

POLICIES: dict[str, Callable[[], DiffusionPolicy]] = {
    "transformer": lambda: small_policy("causal"),
    "encoder only": lambda: small_policy("encoder-only"),
    "in-painting": lambda: small_policy("in-painting"),
    "unet": lambda: from_reference(live_unet("global")),
    "unet, local": lambda: from_reference(live_unet("local")),
    "unet, images": image_policy,
    "transformer, images": lambda: image_policy("transformer"),
}


def nothing(policy: DiffusionPolicy) -> Any:
    if policy.obs_spec.images:
        return observation(0)
    return torch.zeros(0, policy.n_obs_steps, policy.obs_dim)


@pytest.mark.parametrize("kind", POLICIES)
def test_every_engine_answers_alike(kind: str) -> None:
    policy = POLICIES[kind]()
    shape, obs = (0, policy.n_action_steps, policy.action_dim), nothing(policy)
    assert policy.act(obs, []).shape == shape
    assert policy.act(obs, torch.Generator()).shape == shape
    assert policy.predict_action({"obs": obs})["action"].shape == shape
    for name, (config, _) in ENGINES.items():
        for cache in (None, UniformConfig(steps=2)):
            with accelerated(policy, cache, engine=config()) as fast:
                for noise in ([], torch.Generator()):
                    assert fast.act(obs, noise, None).shape == shape, (name, cache)
                assert fast.stats()["n_queries"] == 0
    with accelerate(policy) as robot:
        assert robot.act(obs).shape == shape


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("bits", [None, 8])
def test_every_backend_answers_alike(backend: str, bits: int | None) -> None:
    policy = quantisable(4)
    quant = RtnConfig() if bits else None
    statistics = policy_statistics(policy) if bits else None
    config = ENGINES["fused"][0](backend=backend)
    with accelerated(policy, None, quant, config, statistics=statistics) as fast:
        actions = fast.act(nothing(policy), [])
    assert actions.shape == (0, policy.n_action_steps, policy.action_dim)
