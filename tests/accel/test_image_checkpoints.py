"""What caches, engines and quantisation make of a checkpoint of diffusion_policy with images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from accel import (
    BacConfig,
    CachePlan,
    Calibration,
    DuQuantConfig,
    FirstBlockConfig,
    HashAbConfig,
    IntervalConfig,
    RtnConfig,
    TaylorConfig,
    TeaCacheConfig,
    UniformConfig,
    accelerated,
    calibrate,
    collect,
    quantize,
    sites_of,
)
from policies import DiffusionPolicy, policy_config
from policies.reference.interpolation import resolve
from policies.reference.live import own_state
from tests.helpers.image_checkpoints import cfg_of, observations, state_of

CACHES: dict[str, Any] = {
    "bac": BacConfig(steps=4),
    "hash_ab": HashAbConfig(steps=5),
    "uniform": UniformConfig(steps=4),
    "taylor": TaylorConfig(),
    "interval": IntervalConfig(),
    "teacache": TeaCacheConfig(),
    "first_block": FirstBlockConfig(),
}


def noise(n: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + row) for row in range(n)]


def loaded(kind: str) -> DiffusionPolicy:
    cfg = resolve(cfg_of(kind))
    policy = DiffusionPolicy(policy_config(cfg)).eval()
    policy.load_state_dict(own_state(state_of(kind), cfg))
    return policy


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return loaded("transformer")


@pytest.fixture(scope="module")
def calibration(policy: DiffusionPolicy) -> Calibration:
    return calibrate(policy, observations("transformer", 10, 5), noise(10, 9))


@pytest.mark.parametrize("name", CACHES)
def test_caches_run_in_both_engines(
    name: str, policy: DiffusionPolicy, calibration: Calibration
) -> None:
    obs, scale = observations("transformer", 3, 1), policy.normalizer.params("action")["scale"]
    acted = {}
    for engine in ("reference", "fused"):
        with accelerated(policy, CACHES[name], None, engine, calibration=calibration) as fast:
            acted[engine] = fast.act(obs, noise(3))
            assert np.array(fast.stats()["hits"]).any() or name in ("teacache", "first_block")
    torch.testing.assert_close(
        acted["fused"] * scale, acted["reference"] * scale, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("kind", ["transformer", "image"])
def test_with_every_cell_computed_it_is_the_plain_policy(kind: str) -> None:
    policy = loaded(kind)
    obs, sites = observations(kind, 2, 3), sites_of(policy)
    plan = CachePlan(
        sites, np.ones((policy.n_inference_steps, len(sites)), bool), policy.fingerprint(), "all"
    )
    plain = policy.act(obs, noise(2))
    with accelerated(policy, plan, None, "reference") as slow:
        assert torch.equal(slow.act(obs, noise(2)), plain)
    if kind == "transformer":
        with accelerated(policy, None, None, "fused") as fast:
            torch.testing.assert_close(fast.act(obs, noise(2)), plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "n_convolutions"),
    [
        (RtnConfig(weight_bits=8, min_features=16), 20),
        (DuQuantConfig(weight_bits=8, min_features=16, exclude=(r"backbone\.[5-7]|pool",)), 5),
    ],
    ids=["rtn", "duquant"],
)
def test_denoiser_and_encoder_are_quantised(
    config: Any, n_convolutions: int, policy: DiffusionPolicy
) -> None:
    obs = observations("transformer", 2, 1)
    batches = [(observations("transformer", 2, seed), noise(2, seed)) for seed in (5, 6)]
    statistics = collect(policy, batches, 2, run=lambda model, batch: model.act(*batch))
    small = quantize(policy, statistics, config)
    names = [layer.name for layer in small.layers]
    assert sum(name.startswith("encoder.nets.0.backbone.") for name in names) == n_convolutions
    assert any(name.startswith("model.decoder.layers.1.") for name in names)
    cond, plain = small.model.encode(obs), policy.encode(obs)
    assert 0 < float((cond - plain).norm() / plain.norm()) < 0.05
    acted, expected = small.model.act(obs, noise(2)), policy.act(obs, noise(2))
    assert 0 < float((acted - expected).abs().mean()) < 0.05
