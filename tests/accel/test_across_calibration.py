"""What values of the query before are worth, and the plan that hash_ab makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accel import (
    CachePlan,
    Calibration,
    HashAbConfig,
    PlanError,
    accelerated,
    calibrate,
    measure_across,
    resolve,
    with_across,
    worth,
    worth_table,
)
from accel.caches import CACHES
from accel.calibration.across import moments_of
from accel.calibration.branch_outputs import observe
from accel.plans.flops import site_costs
from policies import DiffusionPolicy, from_reference
from tests.helpers.stock import OBS, TO, live_policy

N = 8
CONFIG = HashAbConfig(steps=4, across=True)
Episodes = list[tuple[Tensor, list[torch.Generator]]]


def noise(rows: int, seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + row) for row in range(rows)]


def episodes(n: int = 3, queries: int = 4) -> Episodes:
    """Observations that drift, so that consecutive ones are alike."""
    found: Episodes = []
    for seed in range(n):
        drawn = torch.randn(queries, TO, OBS, generator=torch.Generator().manual_seed(seed))
        found.append((drawn[:1] + 0.3 * drawn.cumsum(0), noise(queries, seed)))
    return found


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return from_reference(live_policy(steps=N))


@pytest.fixture(scope="module")
def arrays(policy: DiffusionPolicy) -> dict[str, np.ndarray]:
    return measure_across(policy, episodes())


@pytest.fixture(scope="module")
def calibration(policy: DiffusionPolicy) -> Calibration:
    obs = torch.cat([o for o, _ in episodes()])
    needs = CACHES["hash_ab"].needs
    made = calibrate(policy, obs, noise(len(obs), 9), progress=False, statistics=needs)
    return with_across(made, policy, episodes())


def pairs(policy: DiffusionPolicy) -> tuple[np.ndarray, np.ndarray]:
    """(pairs, n_sites, N, size) of both queries, by another way."""
    before, now = [], []
    for obs, generators in episodes():
        with torch.inference_mode():
            _, features = observe(policy, policy.encode(obs), generators)
        flat = features.flatten(3).double().numpy()
        before.append(flat[:-1])
        now.append(flat[1:])
    return np.concatenate(before), np.concatenate(now)


@pytest.mark.parametrize("centred", [False, True])
def test_weights_are_those_of_least_squares(
    policy: DiffusionPolicy, arrays: dict[str, np.ndarray], centred: bool
) -> None:
    before, now = pairs(policy)
    n = len(now)
    if centred:
        before, now = before - before.mean(axis=0), now - now.mean(axis=0)
    moments = moments_of(arrays, centred)
    assert moments.n_pairs == n == 9
    for site, step, anchor in ((0, 5, 3), (3, 7, 0), (5, 1, 0)):
        y = now[:, site, step].ravel()
        columns = np.stack([now[:, site, anchor].ravel(), before[:, site, step].ravel()], axis=1)
        weights, *_ = np.linalg.lstsq(columns, y, rcond=None)
        fit = moments.fit(site, step, anchor)
        np.testing.assert_allclose((fit.own, fit.before), weights, rtol=1e-3, atol=1e-4)
        left = ((y - columns @ weights) ** 2).sum() / (n - 1 if centred else n)
        assert fit.error == pytest.approx(left, rel=1e-3, abs=1e-5)
        if not centred:
            for column, flag in ((0, False), (1, True)):
                found = moments.error(site, step, anchor, before=flag)
                expected = ((y - columns[:, column]) ** 2).sum() / n
                assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_query_that_is_asked_again_is_told_exactly(policy: DiffusionPolicy) -> None:
    same = [(o[:1].expand(5, -1, -1), [g[0]] * 5) for o, g in episodes(2)]
    again = [(o, [torch.Generator().manual_seed(7) for _ in g]) for o, g in same]
    rows = worth(measure_across(policy, again), [0, 2, 5, 7])
    assert [row.steps for row in rows] == [(2, 2), (5, 5), (7, 7)]
    for row in rows:
        assert row.before < 1e-3 < row.own
        assert row.both < 1e-3
    text = worth_table(rows).splitlines()
    assert len(text) == 5
    assert text[2].startswith("| 2 to 2 | ")


def test_both_are_never_worse_than_one(arrays: dict[str, np.ndarray]) -> None:
    for row in worth(arrays, [0, 1, 2, 4, 6, 7]):
        assert row.both <= min(row.own, row.before) + 1e-6


def test_too_few_pairs(policy: DiffusionPolicy) -> None:
    with pytest.raises(ValueError, match="must make at least 8 pairs, got 3"):
        measure_across(policy, episodes(1))


@pytest.mark.parametrize("layout", ["prefix", "block"])
@pytest.mark.parametrize("drift", [True, False])
def test_half_of_the_flops_are_taken(
    policy: DiffusionPolicy, calibration: Calibration, layout: str, drift: bool
) -> None:
    config = replace(CONFIG, layout=layout, drift=drift)
    plan = resolve(policy, config, calibration)
    without = resolve(policy, replace(config, across=False), calibration)
    assert plan.across is not None
    taken, costs = plan.across.taken, site_costs(policy)
    assert (plan.mask == without.mask).all()
    spent, saved = float((plan.mask @ costs).sum()), float((taken @ costs).sum())
    assert 0.5 * spent - costs.max() < saved <= 0.5 * spent
    moments, harms = moments_of(dict(calibration.arrays), centred=drift), {}
    for u in range(plan.mask.shape[1]):
        steps = [*np.flatnonzero(plan.mask[:, u]).tolist(), N]
        for i, step in enumerate(steps[:-1]):
            fit = moments.fit(u, step, steps[i - 1] if i else None)
            served = calibration.sensitivity[step : steps[i + 1]].sum()
            harms[step, u] = fit.error * served / costs[u]
            if taken[step, u]:
                np.testing.assert_allclose(plan.across.alpha[step, u], (fit.own, fit.before))
    most = max(harm for cell, harm in harms.items() if taken[cell])
    left = [harm for cell, harm in harms.items() if not taken[cell]]
    assert sum(harm < most for harm in left) <= 1  # one that had no room left


def test_means_are_told_exactly_with_drift(
    policy: DiffusionPolicy, calibration: Calibration
) -> None:
    """Where this query and the one before have the mean's values, so has what is taken."""
    plan = resolve(policy, CONFIG, calibration)
    bias = plan.hit_bias()
    assert plan.across is not None
    assert bias is not None
    for step, u in np.argwhere(plan.across.taken).tolist():
        own, before = plan.across.alpha[step, u]
        mean = calibration.mean[u]
        anchors = np.flatnonzero(plan.mask[:step, u])
        found = before * mean[step] + bias[step, u]
        found = found + own * mean[anchors[-1]] if own else found
        np.testing.assert_allclose(found, mean[step], rtol=1e-4, atol=1e-5)


def test_full_queries_are_the_plan_without_it(
    policy: DiffusionPolicy, calibration: Calibration, tmp_path: Path
) -> None:
    actions = []
    plan = resolve(policy, CONFIG, calibration)
    plan.save(tmp_path / "plan.json")
    again: Any = CachePlan.load(tmp_path / "plan.json")
    assert again.digest() == plan.digest()
    for cache in (again, resolve(policy, replace(CONFIG, across=False), calibration)):
        memory: list[dict[str, Any]] = [{} for _ in range(4)]
        with accelerated(policy, cache=cache, engine="reference") as fast:
            asked = episodes()[:3]
            actions.append([fast.act(obs, noise(4, 5), memory) for obs, _ in asked])
    equal = [torch.equal(a, b) for a, b in zip(*actions, strict=True)]
    assert equal == [True, False, True]


def test_it_counts_in_an_identity_only_where_it_is_used(
    policy: DiffusionPolicy, calibration: Calibration, tmp_path: Path
) -> None:
    method, without = CACHES["hash_ab"], replace(CONFIG, across=False)
    assert method.needs_of(without) == method.needs
    assert method.needs_of(CONFIG) == (*method.needs, "across")
    assert "across" not in method.identity(without, policy)
    assert method.identity(CONFIG, policy)["across"] is True
    calibration.save(tmp_path)
    again = Calibration.load(tmp_path)
    for config in (without, CONFIG):
        needs = method.needs_of(config)
        assert again.digest(needs) == calibration.digest(needs)
    assert again.digest(method.needs_of(CONFIG)) != again.digest(method.needs)
    bare = {n: a for n, a in calibration.arrays.items() if not n.startswith("across.")}
    with pytest.raises(PlanError, match="needs a calibration with consecutive queries"):
        resolve(policy, CONFIG, replace(calibration, arrays=bare))
