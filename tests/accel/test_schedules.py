"""Schedules against brute force, the bubbling union, and the calibrated methods end to end."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel import (
    BacConfig,
    HashAbConfig,
    PlanError,
    Site,
    UniformConfig,
    accelerated,
    resolve,
    summarize,
)
from accel.caches import CACHES
from accel.caches.forecast import lagrange, step_derivative
from accel.caches.forecast_rules import RULES
from accel.caches.schedules import (
    adaptive_schedule,
    bubbling_blocks,
    bubbling_union,
    gains_of,
    optimal_schedules,
    share_budget,
)
from policies import from_reference
from tests.helpers.features import calibration_of, changed, features_of
from tests.helpers.stock import OBS, TO, live_policy

POLICY = from_reference(live_policy("causal"))
FEATURES = features_of(POLICY, 8)
CALIBRATION = calibration_of(POLICY, FEATURES)


def random_gains(seed: int, n: int) -> np.ndarray:
    gains = -np.random.default_rng(seed).random((n, n))
    gains = (gains + gains.T) / 2
    np.fill_diagonal(gains, 0)
    return gains


def worth(gains: np.ndarray, steps: list[int]) -> float:
    """What a schedule gains, by its definition."""
    ends = [*steps[1:], len(gains)]
    return sum(float(gains[a, a:b].sum()) for a, b in zip(steps, ends, strict=True))


def every_schedule(n: int, size: int, force_last: bool, min_gap: int) -> list[list[int]]:
    found = [[0, *rest] for rest in itertools.combinations(range(1, n), size - 1)]
    return [
        steps
        for steps in found
        if (not force_last or size == 1 or steps[-1] == n - 1)
        and all(b - a >= min_gap for a, b in itertools.pairwise(steps))
    ]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    force_last=st.booleans(),
    min_gap=st.integers(1, 3),
)
def test_the_programme_finds_what_brute_force_finds(
    seed: int, n: int, force_last: bool, min_gap: int
) -> None:
    gains = random_gains(seed, n)
    optima = optimal_schedules(gains, n, force_last, min_gap)
    for size in range(1, n + 1):
        allowed = every_schedule(n, size, force_last, min_gap)
        best = max((worth(gains, steps) for steps in allowed), default=-np.inf)
        assert optima.value[size - 1] == pytest.approx(best)
        if allowed:
            assert optima.steps(size) in allowed
            assert worth(gains, optima.steps(size)) == pytest.approx(best)


@given(st.integers(0, 10**6), st.integers(2, 30), st.booleans())
def test_more_updates_never_gain_less(seed: int, n: int, force_last: bool) -> None:
    value = optimal_schedules(random_gains(seed, n), n, force_last).value
    assert np.all(np.diff(value) >= -1e-12)
    assert value[-1] == 0


@given(st.integers(0, 10**6), st.integers(1, 19))
def test_schedules_do_not_depend_on_the_scale(seed: int, size: int) -> None:
    gains = random_gains(seed, 20)
    assert adaptive_schedule(gains, size) == adaptive_schedule(4 * gains, size)


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)  # whatever ran before in this process


def test_schedules_at_the_ends_of_the_budget(caplog: pytest.LogCaptureFixture) -> None:
    gains = random_gains(0, 6)
    assert adaptive_schedule(gains, 1) == [0]
    assert adaptive_schedule(gains, 1, force_last=True) == [0]
    assert adaptive_schedule(gains, 2, force_last=True) == [0, 5]
    assert adaptive_schedule(gains, 6, min_gap=3) == list(range(6))
    assert not caplog.text
    assert adaptive_schedule(gains, 9) == list(range(6))
    assert "cache.steps=9: there are 6 steps, all are computed" in caplog.text
    assert adaptive_schedule(np.zeros((6, 6)), 3) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"cache.steps must be at least 1, got 0"):
        adaptive_schedule(gains, 0)
    with pytest.raises(
        ValueError, match=r"cache.min_gap must be at most 2 for 3 updates in 6 step"
    ):
        adaptive_schedule(gains, 3, min_gap=3)


@pytest.mark.parametrize("metric", ["cos", "mse", "l1", "l2"])
def test_schedules_compute_where_features_jump(metric: str) -> None:
    """Distances are minimised, cosines maximised: a jump in the features is an update step."""
    features = FEATURES.copy()
    features[:] = FEATURES[:, :, :1]
    features[:, :, 4:] = FEATURES[:, :, 9:]
    gains = gains_of(calibration_of(POLICY, features), metric)
    for block in gains:
        assert adaptive_schedule(block, 2) == [0, 4]


def test_a_budget_shared_by_gain_beats_equal_shares_at_the_same_cost() -> None:
    blocks = [random_gains(seed, 20) * scale for seed, scale in enumerate((1, 10, 0.1))]
    values = [optimal_schedules(block, 20).value for block in blocks]
    cost = np.array([2.0, 1.0, 3.0])
    for n_updates in (1, 4, 10, 20):
        counts = share_budget(values, cost, n_updates)
        assert cost @ np.array(counts) <= cost.sum() * n_updates
        assert cost @ np.array(counts) > cost.sum() * n_updates - cost.max()
        shared = sum(v[c - 1] for v, c in zip(values, counts, strict=True))
        assert shared >= sum(v[n_updates - 1] for v in values)
    assert counts == [20, 20, 20]
    small = share_budget(values, cost, 4, at_least=2)
    assert min(small) >= 2
    assert small[1] > 4


def test_a_shared_budget_jumps_over_updates_that_gain_nothing() -> None:
    pair = np.array([-10.0, -10.0, 0.0, 0.0])  # only the second further update helps
    steady = np.array([-3.0, -2.0, -1.0, 0.0])
    assert share_budget([pair, steady], np.ones(2), 2) == [3, 1]


SITES = tuple(Site(f"decoder.layers.{i}.{op}", op) for i in (0, 1) for op in ("sa", "ca", "ff"))


def hand_made(*steps: set[int]) -> np.ndarray:
    mask = np.zeros((8, len(steps)), dtype=bool)
    for u, chosen in enumerate(steps):
        mask[[0, *chosen], u] = True
    return mask


def update_sets(mask: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(column).tolist()) - {0} for column in mask.T]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([], [{1}, {2}, {3}, {4}, {5}, {6}]),
        ([0], [{1, 3, 6}, {2}, {3}, {4}, {5}, {6}]),
        ([2], [{1}, {2}, {3, 6}, {4}, {5}, {6}]),
        ([5], [{1}, {2}, {3}, {4}, {5}, {6}]),
        ([4, 0, 2], [{1, 3, 6}, {2}, {3, 6}, {4}, {5, 6}, {6}]),
    ],
)
@pytest.mark.parametrize("transitive", [False, True])
def test_the_union_is_its_definition(
    blocks: list[int], expected: list[set[int]], transitive: bool
) -> None:
    mask = hand_made({1}, {2}, {3}, {4}, {5}, {6})
    before = mask.copy()
    assert update_sets(bubbling_union(mask, SITES, blocks, transitive)) == expected
    assert np.array_equal(mask, before)


def test_the_most_volatile_blocks_are_chosen(caplog: pytest.LogCaptureFixture) -> None:
    volatility = np.array([1.0, 5.0, 2.0, 5.0, 0.0, 3.0])
    assert bubbling_blocks(SITES, volatility, 0) == []
    assert bubbling_blocks(SITES, volatility, 1) == [1]
    assert bubbling_blocks(SITES, volatility, 3) == [1, 3, 5]
    assert bubbling_blocks(SITES, volatility, 1, "ff") == [5]
    assert not caplog.text
    assert bubbling_blocks(SITES, volatility, 5, "ff") == [5, 2]
    assert "cache.k=5: there are 2 blocks to choose from, all are" in caplog.text
    with pytest.raises(PlanError, match=r"calibration.volatility of decoder.layers.1.sa is not fi"):
        bubbling_blocks(SITES, np.array([0, 0, 0, np.nan, 0, 0]), 1)


def published(**settings: Any) -> HashAbConfig:
    """As in the papers, not by default."""
    plain = {"layout": "block", "scope": "bu", "damping": 1.0, "drift": False}
    return HashAbConfig(**plain | settings)  # type: ignore[arg-type]


def test_bac_computes_its_schedules_and_the_union(caplog: pytest.LogCaptureFixture) -> None:
    gains = gains_of(CALIBRATION, "cos")
    plain = resolve(POLICY, BacConfig(layout="block", steps=4, k=0), CALIBRATION)
    for u, column in enumerate(plain.mask.T):
        assert np.flatnonzero(column).tolist() == adaptive_schedule(gains[u], 4, force_last=True)
    for transitive in (False, True):
        plan = resolve(
            POLICY, BacConfig(layout="block", steps=4, k=1, transitive=transitive), CALIBRATION
        )
        chosen = bubbling_blocks(CALIBRATION.sites, CALIBRATION.volatility, 1)
        assert np.array_equal(plan.mask, bubbling_union(plain.mask, plain.sites, chosen))
    assert plan.alpha is None
    assert resolve(POLICY, BacConfig(layout="block", steps=1), CALIBRATION).mask.sum() == 6
    assert resolve(POLICY, BacConfig(layout="block", steps=10), CALIBRATION).mask.all()
    assert not caplog.text
    assert resolve(POLICY, BacConfig(layout="block", steps=11, k=99), CALIBRATION).mask.all()
    assert "the sampler has 10 steps" in caplog.text
    assert "cache.k=99: there are 6 blocks" in caplog.text


def test_caution_lowers_what_varies_between_queries() -> None:
    spread = CALIBRATION.spread["cos"]
    careful = gains_of(CALIBRATION, "cos", 1.28)
    expected = CALIBRATION.similarity["cos"] - 1 - 1.28 * spread
    off = ~np.eye(10, dtype=bool)
    assert np.allclose(careful[:, off], expected[:, off])
    assert np.diagonal(careful, axis1=1, axis2=2).max() == 0
    plan = resolve(POLICY, BacConfig(layout="block", steps=4, k=0, caution=1.28), CALIBRATION)
    for u, column in enumerate(plan.mask.T):
        assert np.flatnonzero(column).tolist() == adaptive_schedule(careful[u], 4, force_last=True)


def test_a_global_budget_costs_no_more() -> None:
    for force_last in (False, True):
        config = BacConfig(
            layout="block", steps=4, k=0, metric="l2", budget="global", force_last=force_last
        )
        plan = resolve(POLICY, config, CALIBRATION)
        summary = summarize(plan, POLICY)
        assert 3 < summary.equivalent_steps <= 4
        assert not force_last or plan.mask[-1].all()
    everything = BacConfig(layout="block", steps=10, k=0, budget="global")
    assert resolve(POLICY, everything, CALIBRATION).mask.all()


def test_a_summary_of_a_shared_schedule_is_its_budget() -> None:
    summary = summarize(resolve(POLICY, UniformConfig(steps=4)), POLICY)
    assert set(summary.updates.values()) == {4}
    assert summary.mean_updates == summary.equivalent_steps == 4
    assert 0.4 < summary.flops_share < 1
    assert summary.noise_gain == 1
    bac = summarize(resolve(POLICY, BacConfig(layout="block", steps=4, k=3), CALIBRATION), POLICY)
    assert bac.equivalent_steps > 4
    assert bac.mean_updates == sum(bac.updates.values()) / 6


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("scope", ["bu", "all"])
def test_hash_ab_runs_alike_in_both_engines(name: str, scope: str) -> None:
    config = published(steps=4, k=2, forecast=name, scope=scope)
    obs = torch.randn((2, TO, OBS), generator=torch.Generator().manual_seed(3))
    found = []
    for engine in ("reference", "fused"):
        with accelerated(POLICY, config, engine=engine, calibration=CALIBRATION) as fast:
            found.append(fast.act(obs, [torch.Generator().manual_seed(i) for i in range(2)]))
            assert fast.stats()["computed"] == fast.plan.mask.astype(int).tolist()
            assert fast.stats()["hits"] == (~fast.plan.mask).astype(int).tolist()
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-4)


def test_hash_ab_forecasts_in_its_scope_as_the_rule_says() -> None:
    trusting = published(steps=4, k=2, forecast="lagrange", trust=None)
    chosen = bubbling_blocks(CALIBRATION.sites, CALIBRATION.volatility, 2)
    plan = resolve(POLICY, trusting, CALIBRATION)
    everywhere = resolve(POLICY, replace(trusting, scope="all"), CALIBRATION)
    assert everywhere.alpha is not None
    assert plan.alpha is not None
    for t, u in np.argwhere(~plan.mask):
        anchors = np.flatnonzero(plan.mask[:t, u])[::-1]
        expected = lagrange(anchors, t, 2)
        assert everywhere.alpha[t, u] == pytest.approx(expected)
        assert plan.alpha[t, u] == pytest.approx(expected if u in chosen else np.eye(3)[0])
    bounded = resolve(POLICY, replace(trusting, trust=1.5), CALIBRATION)
    assert bounded.alpha is not None
    assert np.abs(bounded.alpha[~bounded.mask]).sum(axis=-1).max() <= 1.5 + 1e-9
    assert summarize(bounded, POLICY).noise_gain > 1


def test_reuse_and_bac_are_one_plan() -> None:
    reuse = resolve(POLICY, published(steps=4, forecast="reuse"), CALIBRATION)
    assert (
        reuse.digest() == resolve(POLICY, BacConfig(layout="block", steps=4), CALIBRATION).digest()
    )


def test_an_order_that_no_anchors_allow_is_lowered() -> None:
    plan = resolve(POLICY, published(steps=2, k=0, scope="all", order=4), CALIBRATION)
    assert plan.n_slots == 1
    plan = resolve(POLICY, published(steps=3, k=0, scope="all", order=4), CALIBRATION)
    assert plan.n_slots == 2


def test_fitted_coefficients_forecast_the_calibration_best() -> None:
    def error(forecast: str) -> float:
        config = published(
            steps=3,
            k=0,
            scope="all",
            forecast=forecast,
            order=1,
            ridge=0,
            trust=None,
        )
        plan = resolve(POLICY, config, CALIBRATION)
        total = 0.0
        for t, u in np.argwhere(~plan.mask):
            forecast_value = sum(c * FEATURES[:, u, a] for a, c in plan.forecast(t, u))
            total += float(((FEATURES[:, u, t] - forecast_value) ** 2).sum())
        return total

    assert error("fitted") < min(error("reuse"), error("linear"), error("adams_bashforth"))


def test_offline_derivatives_are_a_bias_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    config = published(steps=3, k=1, forecast="adams_bashforth_offline", order=1)
    plan = resolve(POLICY, config, CALIBRATION)
    assert "the same for every observation" in caplog.text
    assert plan.alpha is None
    assert plan.bias is not None
    (chosen,) = bubbling_blocks(CALIBRATION.sites, CALIBRATION.volatility, 1)
    slopes = step_derivative(CALIBRATION.mean[chosen])
    for t, u in np.argwhere(~plan.mask):
        anchor = np.flatnonzero(plan.mask[:t, u])[-1]
        expected = (t - anchor) * slopes[anchor] if u == chosen else 0 * slopes[0]
        np.testing.assert_allclose(plan.bias[t, u], expected, rtol=1e-5, atol=1e-6)


def test_a_scope_without_blocks_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plan = resolve(POLICY, published(steps=3, k=0), CALIBRATION)
    assert plan.alpha is None
    assert "no block has more than S update steps, every hit is reuse" in caplog.text


def test_missing_foreign_and_broken_calibrations_are_refused() -> None:
    def nan(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[2, 1] = np.nan
        return values

    similarity = CALIBRATION.similarity
    distances = {f"similarity.{name}" for name in ("mse", "l1", "l2")}
    only_cos = {n: a for n, a in CALIBRATION.arrays.items() if n not in distances}
    ten = POLICY.config.sampler
    other = POLICY.with_sampler(ten.with_steps("ddim"))
    five = POLICY.with_sampler(ten.with_steps(steps=5))
    offline = published(forecast="adams_bashforth_offline", steps=3)
    fit = published(forecast="fitted", steps=3)
    cases: list[tuple[Any, Any, Any, str]] = [
        (POLICY, BacConfig(), None, r"cache=bac needs a calibration.*runner=calibrate.*accel.cali"),
        (POLICY, HashAbConfig(), None, "cache=hash_ab needs a calibration"),
        (
            other,
            BacConfig(),
            CALIBRATION,
            "calibration is of another checkpoint.*fingerprints differ",
        ),
        (five, BacConfig(), CALIBRATION, "the calibration has 10 steps, .* sampler 5"),
        (
            POLICY,
            BacConfig(),
            replace(CALIBRATION, sites=SITES[:5]),
            "their sites differ",
        ),
        (
            POLICY,
            BacConfig(layout="block"),
            changed(CALIBRATION, **{"similarity.cos": nan(similarity["cos"])}),
            r"calibration.similarity\[cos\] of decoder.layers.0.ff is not finite",
        ),
        (
            POLICY,
            BacConfig(layout="block", metric="l2"),
            replace(CALIBRATION, arrays=only_cos),
            "cache.metric must be one of cos .*got 'l2'",
        ),
        (POLICY, offline, changed(CALIBRATION, mean=nan(CALIBRATION.mean)), "calibration.mean of "),
        (POLICY, fit, changed(CALIBRATION, gram=nan(CALIBRATION.gram)), "calibration.gram of dec"),
        (
            POLICY,
            BacConfig(layout="block", steps=4, min_gap=4),
            CALIBRATION,
            "cache.min_gap must be at most 3",
        ),
    ]
    for policy, config, calibration, words in cases:
        with pytest.raises(ValueError, match=words):
            resolve(policy, config, calibration)
    with pytest.raises(PlanError, match="needs a calibration"), accelerated(POLICY, BacConfig()):
        pass


@pytest.mark.parametrize("config", [BacConfig, HashAbConfig])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "cache.steps must be at least 1, got 0"),
        ({"k": -1}, "cache.k must be at least 0, got -1"),
        ({"min_gap": 0}, "cache.min_gap must be at least 1, got 0"),
        ({"metric": "12"}, "cache.metric must be one of cos, mse, l1, l2, got '12'"),
        ({"kinds": "sa"}, "cache.kinds must be one of all, ff, got 'sa'"),
        ({"budget": "x"}, "cache.budget must be one of block, global, got 'x'"),
    ],
)
def test_schedule_settings_are_refused_by_name(
    config: Any, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match="cache") as error:
        config(**change)
    assert str(error.value) == words


def test_the_table_says_what_needs_a_calibration() -> None:
    calibrated = [name for name, method in CACHES.items() if method.calibrated]
    assert calibrated == ["bac", "hash_ab", "teacache", "first_block"]
    assert CACHES["bac"][0] is BacConfig
    with pytest.raises(ValueError, match=r"cache.scope must be one of bu, all, got 'x'"):
        HashAbConfig(scope="x")
