"""Schedules by layers against brute force; the sensitivity that they need, by its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from accel import (
    BacConfig,
    CachePlan,
    HashAbConfig,
    PlanError,
    UniformConfig,
    accelerated,
    resolve,
    summarize,
)
from accel.caches.prefix import early_layers, stale_errors
from accel.calibration.branch_outputs import layer_gram, squared_distances
from accel.calibration.sensitivity import measure_sensitivity, runs_of
from policies import from_reference
from tests.helpers.features import calibration_of, changed, features_of
from tests.helpers.stock import OBS, TO, live_policy

POLICY = from_reference(live_policy("causal"))
CALIBRATION = calibration_of(POLICY, features_of(POLICY, 8))
N, L = POLICY.n_inference_steps, POLICY.sizes.n_layer


def added(n_layers: int, n_steps: int, seed: int = 0) -> np.ndarray:
    """(L, N, size), what layers add in the steps of one query."""
    values = np.random.default_rng(seed).normal(size=(n_layers, n_steps, 6)).cumsum(axis=1)
    return values - values.mean(axis=1, keepdims=True)


def gram(values: np.ndarray) -> np.ndarray:
    return np.einsum("lix,mjx->limj", values, values)


def predicted(values: np.ndarray, updates: list[list[int]], weight: np.ndarray) -> float:
    """Weighted squared error of the sum over layers, straight from the values."""
    total = 0.0
    for t in range(values.shape[1]):
        newest = [max(step for step in steps if step <= t) for steps in updates]
        stale = sum(values[layer, a] - values[layer, t] for layer, a in enumerate(newest))
        total += float(weight[t] * np.square(stale).sum())
    return total


def test_layers_are_summed_without_their_means() -> None:
    features = torch.randn((6, 5, 7), generator=torch.Generator().manual_seed(0))
    values = features.double().numpy().reshape(2, 3, 5, 7).sum(axis=1)
    values -= values.mean(axis=1, keepdims=True)
    assert np.allclose(layer_gram(features, 2), gram(values), atol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_stale_errors_are_what_the_values_say(depth: int) -> None:
    values, full = added(4, 9), [0, 3, 8]
    errors = stale_errors(gram(values), depth, full)
    for p, t in itertools.combinations_with_replacement(range(9), 2):
        newest = max(step for step in full if step <= t)
        early = values[:depth, max(p, newest)] - values[:depth, t]
        late = values[depth:, newest] - values[depth:, t]
        assert errors[p, t] == pytest.approx(np.square(early.sum(0) + late.sum(0)).sum(), abs=1e-9)


def test_the_early_steps_are_the_best_there_are() -> None:
    weight, full = np.linspace(0.1, 2, 8) ** 2, [0, 4, 7]
    for seed in range(4):
        values = added(3, 8, seed)
        found = early_layers(gram(values), weight, full, 0.7)
        everything = {}
        for depth in (1, 2):
            room = min(int(0.7 * 3 * 3 / depth), 5)
            rest, late = [s for s in range(8) if s not in full], [full] * (3 - depth)
            everything[depth] = min(
                predicted(values, [sorted([*full, *more])] * depth + late, weight)
                for n_more in (room - 2, room - 1, room)  # unused ones fall on full steps
                for more in itertools.combinations(rest, n_more)
            )
            assert len(found.steps) <= room or depth != found.depth
        assert found.depth == min(everything, key=everything.__getitem__)
        assert found.error**2 == pytest.approx(min(everything.values()))
        early = [sorted(full + found.steps)] * found.depth + [full] * (3 - found.depth)
        assert predicted(values, early, weight) == pytest.approx(found.error**2)


def test_without_extra_there_are_no_early_steps() -> None:
    values, weight = added(3, 9), np.linspace(1, 2, 9)
    found = early_layers(gram(values), weight, [0, 5, 8], 0.0)
    assert (found.depth, found.steps) == (0, [])
    assert found.error**2 == pytest.approx(predicted(values, [[0, 5, 8]] * 3, weight))
    quadratic = resolve(POLICY, UniformConfig(steps=4))
    plan = resolve(POLICY, BacConfig(steps=4, extra=0.0), CALIBRATION)
    assert plan.digest() == quadratic.digest()


def test_the_plan_computes_first_layers_on_its_budget() -> None:
    width = len(POLICY.sizes.branches)
    for extra in (0.0, 0.7, 1.5):
        plan = resolve(POLICY, BacConfig(steps=4, extra=extra), CALIBRATION)
        layers = plan.mask.reshape(N, L, width)
        assert (layers == layers[..., :1]).all()
        assert (layers[:, 1:, 0] <= layers[:, :-1, 0]).all()
        assert layers[[0, N - 1]].all()
        assert layers[:, -1, 0].sum() == 4
        equivalent = summarize(plan, POLICY).equivalent_steps
        assert equivalent <= 4 * (1 + extra) + 1e-9
        assert (equivalent > 4) == (extra > 0)
    assert resolve(POLICY, BacConfig(steps=N), CALIBRATION).mask.all()


def test_forecasts_of_scope_bu_are_in_the_first_layers() -> None:
    config = HashAbConfig(steps=3, extra=0.5, forecast="linear", scope="bu", drift=False)
    plan = resolve(POLICY, config, CALIBRATION)
    assert plan.alpha is not None
    moved = (plan.alpha[..., 0] != 1) & ~plan.mask
    more = plan.mask.sum(axis=0) > 3
    assert moved.any(axis=0)[more].all()
    assert not moved[:, ~more].any()


@pytest.mark.parametrize("forecast", ["reuse", "linear", "adams_bashforth", "fitted"])
def test_forecasts_with_drift_are_exact_for_the_mean(forecast: str) -> None:
    config = HashAbConfig(steps=3, forecast=forecast, scope="all", drift=True)
    plan = resolve(POLICY, config, CALIBRATION)
    assert plan.bias is not None
    for u in range(len(plan.sites)):
        for t in np.flatnonzero(~plan.mask[:, u]).tolist():
            value = plan.bias[t, u] + sum(
                a * CALIBRATION.mean[u, step] for step, a in plan.forecast(t, u)
            )
            assert np.allclose(value, CALIBRATION.mean[u, t], atol=1e-5)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"layout": "rows"}, "cache.layout must be one of prefix, block, got 'rows'"),
        ({"extra": -1.0}, "cache.extra must be at least 0, got -1.0"),
        ({"extra": float("inf")}, "cache.extra must be at most 100, got inf"),
        ({"k": 3}, "cache.k=3 needs cache.layout=block, got cache.layout=prefix"),
        ({"metric": "l2"}, "cache.metric=l2 needs cache.layout=block"),
        ({"layout": "block", "extra": 2.0}, "cache.extra=2.0 needs cache.layout=prefix"),
    ],
)
def test_a_setting_of_the_other_layout_is_refused(config: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BacConfig(**config)  # type: ignore[arg-type]


def test_a_calibration_that_is_not_finite_is_refused() -> None:
    stream = CALIBRATION.stream.copy()
    stream[1, 2, 0, 3] = np.nan
    with pytest.raises(PlanError, match=r"calibration.stream of .*layers.1.* is not finite"):
        resolve(POLICY, BacConfig(), changed(CALIBRATION, stream=stream))
    broken = changed(CALIBRATION, sensitivity=np.full(N, np.nan))
    with pytest.raises(PlanError, match=r"calibration.sensitivity is not finite"):
        resolve(POLICY, BacConfig(), broken)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 10, 16, 100])
def test_runs_cover_all_steps_but_the_last(n_steps: int) -> None:
    runs = runs_of(n_steps)
    if n_steps < 3:
        assert not runs
    else:
        assert [a for a, _ in runs] == [0, *(b for _, b in runs[:-1])]
        assert runs[-1][1] == n_steps - 1
        assert all(b - a >= 2 for a, b in runs)


def test_sensitivity_is_error_per_squared_distance() -> None:
    m = 6
    obs = torch.randn((m, TO, OBS), generator=torch.Generator().manual_seed(1))

    def noise() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(m)]

    plain = POLICY.act(obs, noise())
    distances = squared_distances(CALIBRATION.stream.sum(axis=(0, 2)))
    given = noise()
    found = measure_sensitivity(
        POLICY, POLICY.encode(obs), given, plain, distances, batch=4, progress=False
    )
    assert (found > 0).all()
    assert (np.diff(found) >= -1e-12).all()
    runs = runs_of(N)
    values = []
    for a, b in runs:
        mask = np.ones((N, len(CALIBRATION.sites)), dtype=bool)
        mask[a + 1 : b] = False
        plan = CachePlan(CALIBRATION.sites, mask, POLICY.fingerprint(), "stale run")
        with accelerated(POLICY, plan, engine="reference") as fast:
            actions = fast.act(obs, noise())
        away = [POLICY.normalizer.normalize("action", x) for x in (actions, plain)]
        squares = (away[0] - away[1]).double().square().mean(dim=(1, 2)).numpy()
        typical = np.sqrt(squares.mean() * np.median(squares))
        values.append(typical / distances[a, a + 1 : b].sum())
    middle = [(a + b - 1) / 2 for a, b in runs]
    expected = np.maximum.accumulate(values)
    assert np.interp(middle, np.arange(N), np.log(found)) == pytest.approx(
        np.log(expected), abs=0.3
    )
    assert found[0] == pytest.approx(expected[0], rel=1e-2)
    assert found[-1] == pytest.approx(expected[-1], rel=1e-2)
    again = measure_sensitivity(
        POLICY, POLICY.encode(obs), noise(), plain, distances, batch=6, progress=False
    )
    assert np.allclose(found, again, rtol=1e-2)


def test_two_steps_are_too_few_to_measure() -> None:
    short = POLICY.with_sampler(POLICY.config.sampler.with_steps("ddim", 2))
    obs = torch.zeros((1, TO, OBS))
    plain = short.act(obs, [torch.Generator().manual_seed(0)])
    noise = [torch.Generator().manual_seed(0)]
    found = measure_sensitivity(short, obs, noise, plain, np.zeros((2, 2)), progress=False)
    assert found.tolist() == [1, 1]
