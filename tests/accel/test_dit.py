"""DiTs under caches, calibrations and quantisations: what the plain policy does, only cheaper."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from accel import (
    CACHES,
    CachePlan,
    Calibration,
    DuQuantConfig,
    FusedConfig,
    IntervalConfig,
    RtnConfig,
    TaylorConfig,
    TeaCacheConfig,
    UniformConfig,
    accelerated,
    branch_errors,
    calibrate,
    collect,
    loud_forecasts,
    quantize,
    resolve,
    sites_of,
)
from accel.engines import ReferenceConfig, backend, resolve_engine
from accel.engines.deciding import session
from accel.forecast_noise import branch_noise
from accel.plans.decisions import normed
from accel.plans.flops import plain_flops, site_costs
from policies import DiffusionPolicy
from policies.sampling.flow import CALLS
from tests.accel.test_fused import random_plan
from tests.helpers.dit import DIFFUSION, HORIZON, SMALL, TO, dit_policy, flow, noise, query

SAMPLERS = {"ddpm": DIFFUSION, "euler": flow("euler", 8), "rk4": flow("rk4", 2)}
POLICIES = {name: dit_policy(sampler) for name, sampler in SAMPLERS.items()}
LINEARS = ("attn.qkv_proj", "attn.out_proj", "attn_modulation.linear", "mlp.0", "mlp.2")
LAYERS = (*LINEARS, "mlp_modulation.linear")
FORMS: list[dict[str, Any]] = [{}, {"use_rope": False, "use_positional_encoding": True}]


@pytest.fixture(scope="module")
def calibrations() -> dict[str, Calibration]:
    obs = torch.randn((8, TO, 5), generator=torch.Generator().manual_seed(7))
    return {
        name: calibrate(policy, obs, noise(8, 50), progress=False)
        for name, policy in POLICIES.items()
    }


def test_sites_are_two_a_block() -> None:
    names = [f"transformer_blocks.{layer}.{op}" for layer in range(3) for op in ("sa", "ff")]
    assert [(s.name, s.op, s.kind) for s in sites_of(POLICIES["euler"])] == [
        (name, name[-2:], "branch") for name in names
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 3])
def test_flops_are_those_of_the_products_that_run(form: dict[str, Any], n: int) -> None:
    """Counted by torch's own functions, site by site."""
    policy = dit_policy(SAMPLERS["euler"], **form)
    counts: list[int] = []

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        counts[-1] += 2 * x.numel() * len(weight)
        return x @ weight.T + (0 if bias is None else bias)

    def attend(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
        counts[-1] += 2 * 2 * q.numel() * k.shape[-2]
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v

    def branch(step: int, site: int, compute: Any) -> Tensor:
        rest = counts.pop()
        counts.append(0)
        out: Tensor = compute()
        counts.append(rest)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "linear", linear)
        patch.setattr(functional, "scaled_dot_product_attention", attend)
        counts.append(0)
        patched = policy.with_sampler("euler", 1).act(*query(n), branch)
    *sites, rest = (count // n for count in counts)
    assert sites == site_costs(policy).tolist()
    once = policy.with_sampler("euler", 1)
    assert sum(sites) + rest == plain_flops(once)
    torch.testing.assert_close(patched, once.act(*query(n)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("cache", sorted(CACHES))
def test_every_cache_runs_and_computes_less(
    name: str, cache: str, calibrations: dict[str, Calibration], tmp_path: Path
) -> None:
    policy = POLICIES[name]
    config = CACHES[cache].config()
    if hasattr(config, "steps"):
        config = type(config)(steps=3)
    if cache == "interval":
        config = IntervalConfig(start=1)
    if cache == "plan":
        resolve(policy, UniformConfig(steps=3)).save(tmp_path / "plan.json")
        config = type(config)(path=str(tmp_path))
    plain = policy.act(*query())
    with accelerated(policy, config, calibration=calibrations[name]) as fast:
        found = fast.act(*query())
        stats = fast.stats()
    whole = plain_flops(policy)
    assert whole is not None
    assert np.shape(stats["computed"]) == (len(policy.table), 6)
    if cache == "none":
        torch.testing.assert_close(found, plain, atol=1e-4, rtol=0)
    else:
        assert found.isfinite().all()
        assert 0 < float((found - plain).abs().max()) < 5
    assert stats["flops"] < whole  # what time says is in a table
    again = {"engine": "reference", "calibration": calibrations[name]}
    with accelerated(policy, config, **again) as slow:
        torch.testing.assert_close(slow.act(*query()), found, atol=1e-4, rtol=0)
        assert (cache == "none") == (slow.stats()["flops"] == whole)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("seed", range(3))
def test_drawn_plans_are_what_their_table_says(name: str, seed: int) -> None:
    """A hit adds alpha times the stored values; the plan is run by hand beside the engine."""
    policy = POLICIES[name]
    plan = random_plan(policy, seed, 0.5, 2)
    stored: dict[int, list[Tensor]] = {u: [] for u in range(6)}

    def by_hand(step: int, site: int, compute: Any) -> Tensor:
        if plan.mask[step, site]:
            stored[site].insert(0, compute())
            return stored[site][0]
        alpha = [1.0] if plan.alpha is None else plan.alpha[step, site].tolist()
        terms = [a * x for a, x in zip(alpha, stored[site], strict=False)]
        return torch.stack(terms).sum(0)

    expected = policy.act(*query(), by_hand)
    with accelerated(policy, plan) as fast:
        torch.testing.assert_close(fast.act(*query()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cache", sorted(set(CACHES) - {"plan", "hash_ab"}))
def test_the_same_input_at_every_step_gives_the_plain_output(
    cache: str, calibrations: dict[str, Calibration]
) -> None:
    """Blocks that are shown the same at every step put out the same, so hits change nothing.

    Not of hash_ab, which forecasts around the calibration's mean, that of other inputs.
    """
    policy = POLICIES["euler"]
    config = CACHES[cache].config()
    config = type(config)(steps=3) if hasattr(config, "steps") else config
    plan = resolve(policy, config, calibrations["euler"])
    outs = []
    obs, _ = query()
    cond, x = policy.encode(obs), torch.randn(2, HORIZON, 3)
    with session(policy, plan) as branch, torch.no_grad():
        for step in range(len(policy.table)):
            call = lambda site, compute, step=step: branch(step, site, compute)  # noqa: E731
            outs.append(policy.model(x, torch.full((2,), 0.3), cond, call))
    for out in outs:
        torch.testing.assert_close(out, outs[0], atol=1e-5, rtol=1e-5)


def test_what_teacache_looks_at_is_the_first_modulated_input() -> None:
    policy = POLICIES["euler"]
    (obs, generators), block = query(), POLICIES["euler"].model.transformer_blocks[0]
    with normed(policy) as seen:
        policy.act(obs, generators)
    assert len(seen) == len(policy.table)
    start = torch.cat([torch.randn((1, HORIZON, 3), generator=g) for g in query()[1]])
    with torch.no_grad():
        told = policy.model.seen(torch.zeros(2), policy.encode(obs))
        shift, scale, _ = block.attn_modulation.linear(told)[:, None].chunk(3, -1)
        x = policy.model.input_proj(start)
        normal = nn.functional.layer_norm(x, (16,), eps=1e-6)
    torch.testing.assert_close(seen[0], normal * (1 + scale) + shift)


def test_rows_of_teacache_decide_for_themselves(calibrations: dict[str, Calibration]) -> None:
    policy, config = POLICIES["rk4"], TeaCacheConfig(threshold=0.5)
    obs, _ = query(3)
    with accelerated(policy, config, calibration=calibrations["rk4"]) as fast:
        whole = fast.act(obs, noise(3))
        trace = np.array(fast.stats()["trace"])
        for row in range(3):
            alone = fast.act(obs[row : row + 1], noise(1, row))
            torch.testing.assert_close(alone, whole[row : row + 1], atol=1e-5, rtol=1e-5)
            assert np.array_equal(fast.stats()["trace"][0], trace[row])
    assert trace.shape == (3, 8)


def test_bands_and_biases_fit_its_tokens() -> None:
    policy = POLICIES["euler"]
    bands = TaylorConfig(low_order=0, high_order=1, interval=2)
    for cache in (bands, random_plan(policy, 1, 0.5, 1, biased=True)):
        found = []
        for engine in ("fused", "reference"):
            with accelerated(policy, cache, engine=engine) as fast:
                found.append(fast.act(*query()))
        assert found[0].isfinite().all()
        torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_errors_of_branches_are_measured() -> None:
    policy = POLICIES["euler"]
    obs, _ = query(8)
    plan = resolve(policy, UniformConfig(steps=4))
    found = branch_errors(policy, plan, obs, noise(8))
    assert np.isfinite(found.error).all()
    assert np.array_equal(found.hits, ~plan.mask)
    assert found.error[1:].mean() > found.error[0].mean() == 0


@pytest.mark.parametrize("kind", CALLS)
def test_a_plan_is_saved_with_its_sampler(kind: str, tmp_path: Path) -> None:
    policy = POLICIES[kind]
    plan = resolve(policy, UniformConfig(steps=3))
    plan.save(tmp_path / "plan.json")
    again = CachePlan.load(tmp_path / "plan.json")
    again.check(policy)
    assert (again.digest(), again.sampler) == (plan.digest(), plan.sampler)
    with pytest.raises(ValueError, match="made for another"):
        again.check(dit_policy(SAMPLERS[kind], seed=1))


@pytest.mark.parametrize("config", [RtnConfig(), DuQuantConfig(weight_bits=4, row_rot="restore")])
def test_all_linear_layers_of_blocks_are_quantised(config: Any) -> None:
    policy = dit_policy(SAMPLERS["euler"], scale=1.5, n_emb=64, timestep_embed_dim=64)
    batches = [query(8)]
    statistics = collect(policy, batches, 1, run=lambda p, batch: p.act(*batch))
    made = quantize(policy, statistics, config)
    names = [f"model.transformer_blocks.{i}.{layer}" for i in range(3) for layer in LAYERS]
    assert sorted(r.name for r in made.layers) == sorted(names)
    assert made.left_out == () or {left.name for left in made.left_out}.isdisjoint(names)
    plain = policy.act(*query())
    with accelerated(policy, UniformConfig(steps=8), made) as fast:
        found = fast.act(*query())
        assert {layer["name"] for layer in fast.stats()["quantised"]} == set(names)
    error = (found - plain).norm() / plain.norm()
    assert 0 < float(error) < (0.05 if config.weight_bits == 8 else 0.5)
    noises = branch_noise(resolve(policy, None), made.layers, encoder_only=False)
    assert all(0 < value < 0.5 for value in noises.values())
    assert len(noises) == 6


def test_forecasts_on_quantised_layers_may_be_loud(calibrations: dict[str, Calibration]) -> None:
    policy = POLICIES["euler"]
    statistics = collect(policy, [query(8)], 1, run=lambda p, batch: p.act(*batch))
    made = quantize(policy, statistics, RtnConfig(weight_bits=2, activation_bits=4, min_features=8))
    plan = resolve(policy, TaylorConfig(order=2, interval=2))
    loud = loud_forecasts(plan, calibrations["euler"], made.layers)
    assert loud is not None
    assert loud.site.startswith("transformer_blocks.")


def test_engines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """C where it runs; else reference, and settings of the program are refused in one line."""
    policy = POLICIES["euler"]
    assert resolve_engine(FusedConfig(), policy) == FusedConfig(backend="native")
    cannot = r"cannot run here: "
    with pytest.raises(ValueError, match=f"{cannot}that precision is for native"):
        resolve_engine(FusedConfig(backend="torch"), policy)
    narrow = dit_policy(SAMPLERS["euler"], n_head=4)
    with caplog.at_level(logging.INFO):
        assert resolve_engine(FusedConfig(), narrow) == ReferenceConfig()
    assert "engine=reference runs this DiT: heads are 4 wide, no multiple of 8" in caplog.text
    monkeypatch.setattr(backend, "is_compiled", lambda: False)
    assert resolve_engine(FusedConfig(), policy) == ReferenceConfig()
    for config in (FusedConfig(backend="native"), FusedConfig(precision="half")):
        with pytest.raises(ValueError, match=f"{cannot}no compiled code"):
            resolve_engine(config, policy)
    assert SMALL["n_layer"] == policy.sizes.n_layer


def test_the_policy_is_as_before_whatever_ran(calibrations: dict[str, Calibration]) -> None:
    policy = dit_policy(SAMPLERS["euler"])
    before: tuple[str, Tensor] = (policy.fingerprint(), policy.act(*query()))
    with accelerated(policy, TeaCacheConfig(), calibration=calibrations["euler"]) as fast:
        fast.act(*query())
        with pytest.raises(ValueError, match="noise must hold one generator per row"):
            fast.act(query()[0], noise(3))
    again: DiffusionPolicy = policy
    assert again.fingerprint() == before[0]
    assert torch.equal(again.act(*query()), before[1])
    assert not policy.model.transformer_blocks[0].attn_modulation._forward_hooks
