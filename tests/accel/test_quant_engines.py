"""Quantised policies in both engines and under every cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from accel import (
    BacConfig,
    Calibration,
    DeepCacheConfig,
    DuQuantConfig,
    FirstBlockConfig,
    FusedConfig,
    HashAbConfig,
    IntervalConfig,
    PlanError,
    Quantized,
    ReferenceConfig,
    RtnConfig,
    TaylorConfig,
    TeaCacheConfig,
    UniformConfig,
    accelerated,
    branch_errors,
    calibrate,
    integers_of,
    kernels_of,
    loud_forecasts,
    quantized,
    resolve,
    resolve_engine,
)
from accel.engines.parts import engine_name
from accel.quant import native_linear
from accel.quant.statistics import Statistics
from policies import DiffusionPolicy
from tests.helpers.quant_data import BLOCKS, policy_statistics, query, relative, small_policy

STEPS = 10
CACHES: dict[str, Any] = {
    "none": None,
    "uniform": UniformConfig(steps=4),
    "bac": BacConfig(steps=4, extra=0.5),
    "hash_ab": HashAbConfig(steps=4, extra=0.5),
    "interval": IntervalConfig(start=2, interval=3, first_block=1),
    "deepcache": DeepCacheConfig(compute_interval=3),
    "taylor": TaylorConfig(warm_up=2, interval=3),
    "teacache": TeaCacheConfig(threshold=1.0),
    "first_block": FirstBlockConfig(threshold=0.5),
}
OFF = DuQuantConfig(weight_bits=16, activation_bits=16, method="duquant", include=BLOCKS)


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return small_policy(STEPS)


@pytest.fixture(scope="module")
def statistics(policy: DiffusionPolicy) -> Statistics:
    return policy_statistics(policy)


@pytest.fixture(scope="module")
def calibration(policy: DiffusionPolicy) -> Calibration:
    obs, noise = query(7, rows=8)
    return calibrate(policy, obs, noise, progress=False)


@pytest.fixture(scope="module")
def int8(policy: DiffusionPolicy, statistics: Statistics) -> Quantized:
    found = quantized(policy, DuQuantConfig(), statistics)
    assert found is not None
    return found


def act(policy: DiffusionPolicy, cache: Any, quant: Any, engine: Any, **more: Any) -> torch.Tensor:
    with accelerated(policy, cache, quant, engine, **more) as fast:
        return fast.act(*query(3))


@pytest.mark.parametrize("cache", CACHES)
def test_without_quantisation_both_engines_equal_the_plain_policy(
    policy: DiffusionPolicy, statistics: Statistics, calibration: Calibration, cache: str
) -> None:
    more = {"calibration": calibration}
    plain = act(policy, CACHES[cache], None, ReferenceConfig(), **more)
    off = quantized(policy, OFF, statistics)
    assert relative(act(policy, CACHES[cache], off, ReferenceConfig(), **more), plain) < 1e-5
    assert relative(act(policy, CACHES[cache], off, FusedConfig(), **more), plain) < 1e-4


@pytest.mark.parametrize("cache", CACHES)
def test_quantised_engines_agree_far_better_than_quantisation_errs(
    policy: DiffusionPolicy, int8: Quantized, calibration: Calibration, cache: str
) -> None:
    more = {"calibration": calibration}
    plain = act(policy, CACHES[cache], None, ReferenceConfig(), **more)
    reference = act(policy, CACHES[cache], int8, ReferenceConfig(), **more)
    fused = act(policy, CACHES[cache], int8, FusedConfig(), **more)
    error = relative(reference, plain)
    assert 1e-4 < error < 0.2
    assert relative(fused, reference) < 0.5 * error


@pytest.mark.parametrize("network", [{"n_cond_layers": 1}, {"cond_dim": 0, "obs_as_cond": False}])
def test_other_networks_in_the_fused_engine(network: dict[str, Any]) -> None:
    policy = small_policy(4, **network)
    statistics = policy_statistics(policy)
    for config, most in ((OFF, 1e-4), (DuQuantConfig(include=BLOCKS), 0.02)):
        found = quantized(policy, config, statistics)
        reference = act(policy, None, found, ReferenceConfig())
        assert relative(act(policy, None, found, FusedConfig()), reference) < most


@pytest.mark.parametrize("engine", [ReferenceConfig(), FusedConfig()])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_does_not_depend_on_its_neighbours(
    policy: DiffusionPolicy, statistics: Statistics, engine: Any, bits: int
) -> None:
    obs, _ = query(5, rows=8)
    others = 50 * query(6, rows=8)[0]
    config = DuQuantConfig(weight_bits=bits, row_rot="restore")
    with accelerated(policy, None, config, engine, statistics=statistics) as fast:

        def acted(rows: torch.Tensor, seeds: list[int]) -> torch.Tensor:
            return fast.act(rows, [torch.Generator().manual_seed(s) for s in seeds])

        together = acted(obs, list(range(8)))
        mixed = torch.cat([others[:3], obs[3:5], others[5:]])
        assert torch.equal(acted(mixed, [20, 21, 22, 3, 4, 23, 24, 25])[3:5], together[3:5])
        order = [5, 2, 7, 0, 1, 6, 3, 4]
        assert torch.equal(acted(obs[order], order), together[order])


@pytest.mark.parametrize("engine", [ReferenceConfig(), FusedConfig()])
def test_the_policy_stays_plain_and_the_layers_are_told(
    policy: DiffusionPolicy, int8: Quantized, engine: Any
) -> None:
    before = policy.act(*query())
    with accelerated(policy, UniformConfig(steps=4), int8, engine) as fast:
        assert not torch.equal(fast.act(*query()), before)
        assert torch.equal(policy.act(*query()), before)
        layers = fast.stats()["quantised"]
    assert torch.equal(policy.act(*query()), before)
    assert [layer["name"] for layer in layers] == [r.name for r in int8.layers]
    fused = isinstance(engine, FusedConfig) and native_linear.works()
    assert {layer["kernel"] for layer in layers} == {"native" if fused else "torch"}
    assert {(layer["arithmetic"], layer["simulated"]) for layer in layers} == {("integer", "")}


def test_what_is_simulated_is_said(policy: DiffusionPolicy, statistics: Statistics) -> None:
    four = "4-bit weights, multiplied as 8-bit integers"
    both = "4-bit weights and 6-bit inputs, multiplied as 8-bit integers"
    everything = "all of it, in floating point"
    for settings, said in (
        ({"weight_bits": 4}, four),
        ({"weight_bits": 4, "activation_bits": 6}, both),
        ({"weight_bits": 4, "activation_bits": 16}, everything),
        ({"activation": "asymmetric"}, everything),
    ):
        config = RtnConfig(include=(r"linear1",), **settings)
        with accelerated(policy, None, config, "reference", statistics=statistics) as fast:
            assert {layer["simulated"] for layer in fast.stats()["quantised"]} == {said}


def test_wrong_quantisations_are_refused(
    policy: DiffusionPolicy, statistics: Statistics, int8: Quantized
) -> None:
    config = DuQuantConfig()
    with pytest.raises(ValueError, match="quant=duquant needs statistics"):
        act(policy, None, config, "reference")
    with pytest.raises(TypeError, match="quant must be a config of none, rtn, smooth, duquant"):
        act(policy, None, "duquant", "reference")
    short = policy.with_sampler(policy.config.sampler.with_steps("ddim", 3))
    for quant, more in ((config, {"statistics": statistics}), (int8, {})):
        with pytest.raises(ValueError, match="sampler"):
            act(short, None, quant, "reference", **more)
    with pytest.raises(ValueError, match="made from another policy"):
        act(small_policy(STEPS, n_head=4), None, quantised_of_other_weights(), "reference")


def quantised_of_other_weights() -> Quantized:
    other = small_policy(STEPS)
    with torch.no_grad():
        other.model.head.weight.mul_(2)
    found = quantized(other, RtnConfig(), policy_statistics(other))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("settings", "here"),
    [
        ({}, True),
        ({"weight_bits": 16, "activation_bits": 16}, True),
        ({"row_rot": "restore", "activation_bits": 16}, True),
        ({"row_rot": "restore"}, True),
        ({"activation": "asymmetric"}, False),
        ({"layer_bits": {"linear1": 16}}, False),
    ],
    ids=str,
)
def test_where_a_quantisation_will_run_is_known_before_it_is_made(
    policy: DiffusionPolicy, statistics: Statistics, settings: dict[str, Any], here: bool
) -> None:
    config = DuQuantConfig(method="duquant", **settings)
    native = resolve_engine(FusedConfig(), policy).backend == "native"
    backend = resolve_engine(FusedConfig(), policy, config).backend
    assert backend == ("native" if native and here and native_linear.works() else "torch")
    with accelerated(policy, None, config, "fused", statistics=statistics) as fast:
        fast.act(*query(3))
        kernels = {layer["kernel"] for layer in fast.stats()["quantised"]}
    codes = config.activation_bits < 16
    if backend == "native":
        assert kernels == {"native" if codes else "fp32"}
        assert not codes or integers_of(FusedConfig(), policy, config) == "native"
        return
    assert "torch" in kernels
    if native:
        with pytest.raises(ValueError, match=r"cannot run here: layer \d\.[a-z]+\.[a-z]+: "):
            act(policy, None, config, FusedConfig(backend="native"), statistics=statistics)


def test_a_quantised_policy_is_a_policy_of_its_own(
    policy: DiffusionPolicy, int8: Quantized, calibration: Calibration
) -> None:
    copy: Any = int8.model
    assert copy.fingerprint() != policy.fingerprint()
    plan = resolve(policy, CACHES["hash_ab"], calibration)
    assert torch.equal(act(copy, None, None, FusedConfig()), act(policy, None, int8, FusedConfig()))
    with pytest.raises(PlanError):
        act(copy, plan, None, FusedConfig())


def test_kernels_can_be_given(policy: DiffusionPolicy, int8: Quantized) -> None:
    given = dict.fromkeys(kernels_of(int8.model, FusedConfig()), "fp32")
    made = act(policy, None, int8, FusedConfig(), kernels=given)
    assert not torch.equal(made, act(policy, None, int8, FusedConfig()))
    with accelerated(policy, None, int8, FusedConfig(), kernels=given) as fast:
        assert {layer["kernel"] for layer in fast.stats()["quantised"]} == {"fp32"}
        other = fast.digest()
    with accelerated(policy, None, int8, FusedConfig()) as fast:
        assert fast.digest() != other
        assert fast.digest().startswith(f"{fast.plan.digest()}-{int8.digest()}-")


def test_names_of_layers() -> None:
    assert engine_name("model.decoder.layers.11.multihead_attn.q_proj", False) == "11.ca.q"
    assert engine_name("model.encoder.layers.0.linear2", True) == "0.ff.down"
    assert engine_name("model.encoder.layers.0.linear2", False) is None
    assert engine_name("model.head", False) is None


def test_branches_of_a_quantised_policy_against_the_plain_one(
    policy: DiffusionPolicy, int8: Quantized
) -> None:
    model: Any = int8.model
    plan = resolve(policy, None)
    found = branch_errors(policy, plan, *query(4), progress=False, quantised=model)
    assert not found.hits.any()
    assert 1e-4 < found.error.mean() < 0.2
    assert (found.action_error > 0).all()


def test_forecasts_that_make_noise_louder_than_what_they_forecast(
    policy: DiffusionPolicy, int8: Quantized, calibration: Calibration
) -> None:
    config = HashAbConfig(steps=4, extra=0.0, damping=1.0, order=2, trust=None, drift=False)
    plan = resolve(policy, config, calibration)
    quiet = [vars(r) | {"error": 0.0} for r in int8.layers]
    loud = [vars(r) | {"error": 1.0} for r in int8.layers]
    kind = type(int8.layers[0])
    assert loud_forecasts(plan, calibration, [kind(**r) for r in quiet]) is None
    found = loud_forecasts(plan, calibration, [kind(**r) for r in loud])
    assert found is not None
    assert 0 < found.n_loud <= found.n_hits == (~plan.mask).sum()
    u = [s.name for s in plan.sites].index(found.site)
    weights = [c for _, c in plan.forecast(found.step, u)]
    assert found.gain == pytest.approx(np.linalg.norm(weights))
    assert found.noise == pytest.approx(2**0.5)  # of two layers, each as loud as its output
    assert found.gain * found.noise > found.change
    assert f"in {found.n_loud} of {found.n_hits} hits" in str(found)
    reuse = resolve(policy, UniformConfig(steps=4))
    assert loud_forecasts(reuse, calibration, [kind(**r) for r in loud]) is None
