"""interval, deepcache and taylor: rows, values by hand, and what the libraries get wrong."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel import (
    CachePlan,
    DeepCacheConfig,
    FusedConfig,
    IntervalConfig,
    PlanError,
    Site,
    TaylorConfig,
    accelerated,
    resolve,
    shared_plan,
    summarize,
)
from accel.caches.deepcache import deepcache_steps, resolve_deepcache
from accel.caches.forecast import lagrange, taylor_compat
from accel.caches.interval import interval_steps, resolve_interval
from accel.caches.taylor import resolve_taylor, taylor_steps
from accel.engines.sessions import Session
from accel.plans.bands import Bands, low_bins, low_pass
from accel.plans.file import run_lengths
from policies import from_reference
from tests.accel.test_attach import toy
from tests.helpers.stock import OBS, TO, VARIANTS, live_policy
from tests.helpers.toy_stack import ToyStack

# blocks of factors 2, 3 and 4: the whole stack is 24 x, the first two 6 x
TOY = ToyStack([1, 2, 3], [1, 10, 20, 30, 40, 50, 60, 70])


def rows(plan: CachePlan) -> list[str]:
    return [run_lengths(plan.mask[:, u]) for u in range(len(plan.sites))]


def test_interval_reuses_what_the_window_added_on_its_fresh_input() -> None:
    plan = resolve_interval(IntervalConfig(start=1, interval=3, first_block=1, n_blocks=2), TOY)
    assert rows(plan) == ["S8", "S2 R2 S R2 S", "S2 R2 S R2 S"]
    # step 1 stores 24 x - 2 x at x = 10: 220; step 4 at x = 40: 880
    assert TOY.outputs(plan) == [24, 240, 40 + 220, 60 + 220, 960, 100 + 880, 120 + 880, 1680]


def test_a_window_of_one_block_and_one_at_the_end_of_the_network_work() -> None:
    plan = resolve_interval(IntervalConfig(start=0, interval=2, first_block=2, n_blocks=1), TOY)
    # the last block adds 3 * 6 x: 18 at step 0
    assert TOY.outputs(plan)[:2] == [24, 60 + 18]
    assert rows(plan)[:2] == ["S8", "S8"]
    first = resolve_interval(IntervalConfig(start=0, interval=8, n_blocks=1), TOY)
    assert TOY.outputs(first)[1] == (10 + 1) * 12  # block 0 is a window like any other


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"first_block": 3}, "cache.first_block must be from 0 to 2 .3 blocks., got 3"),
        ({"first_block": 1, "n_blocks": 3}, "cache.n_blocks must be at most 2 from block 1"),
    ],
)
def test_a_window_that_leaves_the_network_is_refused(settings: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        resolve_interval(IntervalConfig(**settings), TOY)


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        (IntervalConfig, {"interval": 0}, "cache.interval must be at least 1, got 0"),
        (IntervalConfig, {"n_blocks": 0}, "cache.n_blocks must be at least 1, got 0"),
        (IntervalConfig, {"start": -1}, "cache.start must be at least 0, got -1"),
        (DeepCacheConfig, {"compute_start": 0}, "cache.compute_start must be at least 1, got 0"),
        (TaylorConfig, {"order": 5}, "cache.order must be from 1 to 4, got 5"),
        (TaylorConfig, {"low_order": 5}, "cache.low_order must be from 0 to 4, got 5"),
        (TaylorConfig, {"high_order": -1}, "cache.high_order must be from 0 to 4, got -1"),
        (TaylorConfig, {"warm_up": 0}, "cache.warm_up must be at least 1, got 0"),
        (TaylorConfig, {"basis": "dct"}, "cache.basis must be one of newton, compat, got 'dct'"),
    ],
)
def test_settings_out_of_range_are_refused(config: Any, settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**settings)


def test_steps_of_every_method() -> None:
    assert interval_steps(10, 3, 4) == [0, 1, 2, 3, 7]
    assert interval_steps(6, 9, 4) == list(range(6))
    assert interval_steps(4, 0, 9) == [0]
    published = deepcache_steps(50, 11, 45, 4)  # [0, 11), 11, 15, ... < 45, [45, 50)
    assert published == [*range(11), *range(11, 45, 4), *range(45, 50)]
    assert deepcache_steps(6, 9, 9, 2) == list(range(6))
    assert taylor_steps(12, 3, 11, 4) == [0, 1, 2, 6, 10, 11]
    assert taylor_steps(5, 9, 5, 4) == list(range(5))


def test_deepcache_computes_shallow_blocks_that_are_not_dead() -> None:
    config = {"compute_start": 1, "compute_end": 8, "compute_interval": 9}
    # step 1 computes as well (it is `compute_start`); it adds 22 x = 220 after block 0
    first = TOY.outputs(resolve_deepcache(DeepCacheConfig(**config, always=[0]), TOY))
    assert first[:4] == [24, 240, 2 * 20 + 220, 2 * 30 + 220]
    none = TOY.outputs(resolve_deepcache(DeepCacheConfig(**config, always=[]), TOY))
    assert none[2:4] == [20 + 230, 30 + 230]
    # a tail: blocks 0 and 1 add 50 to 20, block 2 multiplies by 4
    tail = TOY.outputs(resolve_deepcache(DeepCacheConfig(**config, always=[2]), TOY))
    assert tail[2] == (20 + 50) * 4
    with pytest.raises(PlanError, match=r"cache.always must be blocks from 0 to 2, got 3"):
        resolve_deepcache(DeepCacheConfig(always=[0, 3]), TOY)


def test_deepcache_by_default_ends_with_a_computed_tenth() -> None:
    stack = ToyStack([1, 1], range(100))
    plan = resolve_deepcache(DeepCacheConfig(), stack)
    assert np.flatnonzero(plan.mask[:, 1]).tolist() == [0, *range(1, 90, 10), *range(90, 100)]
    assert plan.mask[:, 0].all()


SIGNALS = {0: lambda t: 3.0, 1: lambda t: 2.0 * t - 1, 2: lambda t: t**2 - t, 3: lambda t: t**3}
GAPS = ([9, 6, 3, 0], [9, 8, 2, 0], [20, 11, 10, 3])


@pytest.mark.parametrize("anchors", GAPS)
@pytest.mark.parametrize("degree", SIGNALS)
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_exactness_of_both_bases(anchors: list[float], degree: int, ahead: int) -> None:
    """newton is exact to its order on any gaps, compat to degree 1."""
    signal, t = SIGNALS[degree], anchors[0] + ahead
    values = np.array([signal(a) for a in anchors])
    for order in (1, 2, 3):
        for basis, exact in ((lagrange, order), (taylor_compat, 1)):
            found = float(basis(anchors, t, order) @ values[: order + 1])
            if degree <= exact:
                assert found == pytest.approx(signal(t), rel=1e-9)
            else:
                assert abs(found - signal(t)) > 1e-3


def test_compat_is_off_by_what_the_libraries_are_off() -> None:
    anchors, square = [9, 6, 3, 0], np.array([81.0, 36, 9, 0])
    for order in (2, 3):  # k h / 2 times the second derivative
        assert 121 - taylor_compat(anchors, 11, order) @ square[: order + 1] == pytest.approx(6)
        assert lagrange(anchors, 11, order) @ square[: order + 1] == pytest.approx(121)


def test_taylor_forecasts_every_branch_and_lowers_the_order_where_it_must() -> None:
    plan = resolve_taylor(
        TaylorConfig(order=2, warm_up=2, cool_down=0, interval=3, basis="compat"), TOY
    )
    assert rows(plan) == ["S2 R2 S R2 S"] * 3
    # block 0 adds x: 1, 10 -> 10 + 2 * 9 at step 3; then 1, 10, 40 with gaps 1 and 3
    assert plan.alpha is not None
    assert plan.alpha[2, 0].tolist() == [2, -1, 0]
    second = ((40 - 10) / 3 - (10 - 1) / 1) / 3
    assert plan.alpha[5, 0] @ [40, 10, 1] == pytest.approx(40 + 10 + second / 2)
    linear = ToyStack([1, 2, 3], [5, 10, 15, 20, 25, 30, 35, 40])
    line = resolve_taylor(TaylorConfig(order=1, warm_up=2, cool_down=0, interval=3), linear)
    assert linear.outputs(line) == pytest.approx([24 * x for x in linear.inputs])


def test_taylor_right_after_one_step_reuses_and_says_that_no_order_is_reached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        plan = resolve_taylor(TaylorConfig(order=2, warm_up=1, cool_down=0, interval=9), TOY)
    assert "cache.order=2: a hit finds 1 stored values at most, so it is 0" in caplog.text
    assert TOY.outputs(plan)[1] == 10 + 23


def test_noise_gains_are_those_of_the_formulas() -> None:
    """The last hit before a computed step, interval 5, compat and newton of order 2."""
    gains = {
        b: np.linalg.norm(f([10, 5, 0], 14, 2))
        for b, f in {"compat": taylor_compat, "newton": lagrange}.items()
    }
    assert gains == pytest.approx({"compat": 2.58, "newton": 3.45}, abs=0.005)


CONFIGS: list[Any] = [
    IntervalConfig(start=2, interval=3, first_block=1),
    IntervalConfig(start=0, interval=2),
    DeepCacheConfig(compute_interval=3),
    DeepCacheConfig(compute_interval=3, always=[1]),
    TaylorConfig(order=2, warm_up=2, cool_down=1, interval=3),
    TaylorConfig(order=2, warm_up=2, cool_down=1, interval=3, basis="compat"),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_both_engines_give_the_same_actions(variant: str, config: Any) -> None:
    policy = from_reference(live_policy(variant))
    obs = torch.randn((2, TO, OBS), generator=torch.Generator().manual_seed(3))
    found = []
    for engine in ("reference", "fused"):
        with accelerated(policy, config, engine=engine) as fast:
            found.append(fast.act(obs, torch.Generator().manual_seed(1)))
            assert np.sum(fast.stats()["hits"]) > 0
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-4)
    assert not torch.allclose(found[0], policy.act(obs, torch.Generator().manual_seed(1)))


def test_interval_one_is_the_plain_policy_and_the_cost_is_that_of_the_cells() -> None:
    policy = from_reference(live_policy())
    assert resolve(policy, IntervalConfig(interval=1)).mask.all()
    everything = summarize(shared_plan(policy, range(10), ""), policy).equivalent_steps
    half = summarize(resolve(policy, IntervalConfig(start=0, n_blocks=1)), policy)
    assert (everything, half.equivalent_steps) == (10, 7.5)


BANDED = TaylorConfig(low_order=0, high_order=2, warm_up=2, cool_down=1, interval=3)


def test_the_low_band_of_few_tokens_is_their_mean() -> None:
    assert [low_bins(n) for n in (1, 10, 19, 20, 39, 40)] == [1, 1, 1, 2, 2, 3]
    np.testing.assert_allclose(low_pass(10), np.full((10, 10), 0.1), atol=1e-12)
    wide = low_pass(32)
    np.testing.assert_allclose(wide @ wide, wide, atol=1e-12)
    assert np.trace(wide) == pytest.approx(3)  # the mean, and a wave's two phases
    wave = np.cos(2 * np.pi * np.arange(32) / 32)
    np.testing.assert_allclose(wide @ (1 + wave), 1 + wave, atol=1e-12)
    fast = np.cos(2 * np.pi * 5 * np.arange(32) / 32)
    np.testing.assert_allclose(wide @ fast, 0, atol=1e-12)


def test_each_band_is_forecast_with_its_own_order() -> None:
    """Values of two tokens: their mean is reused, their difference follows its line."""
    sites = (Site("decoder.layers.0.ff", "ff"),)
    mask, alpha = np.array([[True], [True], [False]]), np.zeros((3, 1, 2))
    alpha[2, 0], low = (2, -1), np.zeros((3, 1, 2))
    low[2, 0] = (-1, 1)
    plan = CachePlan(sites, mask, "toy", "by hand", alpha, bands=Bands(low))
    assert plan.forecast(2, 0) == ((1, 2.0), (0, -1.0))
    session = Session(plan, live=2)
    for step, tokens in enumerate(([10.0, 20.0, 7.0], [30.0, 60.0, 8.0])):
        session(step, 0, lambda tokens=tokens: torch.tensor(tokens).view(1, 3, 1))
    found = session(2, 0, lambda: torch.zeros(0)).flatten().tolist()
    # means 15, 45: 45; halves of the differences 5, 15: 25; the third token is no live one
    assert found == pytest.approx([45 - 25, 45 + 25, 9])


def test_equal_orders_are_no_bands_and_few_tokens_are_said(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    policy = from_reference(live_policy())
    same = TaylorConfig(low_order=2, high_order=2, warm_up=2, interval=3)
    plain = resolve(policy, TaylorConfig(order=2, warm_up=2, interval=3))
    assert "low_order" not in caplog.text
    assert resolve(policy, same).digest() == plain.digest()
    plan = resolve(policy, BANDED)
    assert "of 5 tokens the low band is their mean alone" in caplog.text
    assert plan.bands is not None
    assert plan.digest() != replace(plan, bands=None).digest()
    plan.save(tmp_path / "plan.json")
    again = CachePlan.load(tmp_path / "plan.json")
    assert again.digest() == plan.digest()
    assert again.bands is not None
    assert np.array_equal(again.bands.low, plan.bands.low)
    assert summarize(plan, policy).noise_gain == pytest.approx(
        np.linalg.norm(plan.alpha[~plan.mask], axis=-1).max()  # type: ignore[index]
    )
    with pytest.raises(PlanError, match=r"plan\.bands\.low of decoder.layers.0.sa in step 2"):
        replace(plan, bands=Bands(np.ones_like(plan.bands.low)))
    with pytest.raises(
        PlanError, match=r"plan\.bands are of branches or blocks with 3 slots, got branch"
    ):
        replace(plan, bands=Bands(plan.bands.low[..., :2]))
    assert toy(BANDED).plan.bands is not None  # another model's tokens are seen when it runs


@pytest.mark.parametrize("variant", VARIANTS)
def test_bands_run_in_the_reference_engine_and_are_refused_in_the_fused(variant: str) -> None:
    policy = from_reference(live_policy(variant))
    obs = torch.randn((2, TO, OBS), generator=torch.Generator().manual_seed(3))
    found = []
    for config in (BANDED, replace(BANDED, low_order=2)):
        with accelerated(policy, config, engine="reference") as fast:
            found.append(fast.act(obs, torch.Generator().manual_seed(1)))
    assert not torch.allclose(*found, atol=1e-3)
    words = r"bands along the tokens, need engine=reference, got engine=fused"
    for config in (FusedConfig(), FusedConfig(backend="torch")):
        with pytest.raises(PlanError, match=words), accelerated(policy, BANDED, engine=config):
            pass
