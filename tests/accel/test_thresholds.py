"""teacache and first_block: decisions by hand, by row, in every engine, frozen, and on disk."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel import (
    AcceleratedPolicy,
    CachePlan,
    Calibration,
    FirstBlockConfig,
    FusedConfig,
    PlanError,
    TeaCacheConfig,
    Threshold,
    accelerated,
    adapt_plan,
    branch_errors,
    calibrate,
    freeze,
    resolve,
    shared_plan,
)
from accel.caches.thresholded import fitted_polynomial
from accel.engines.deciding import DecidingSession
from accel.plans.decisions import Decisions, time_tokens
from policies import DiffusionPolicy, from_reference
from runners.episodes.loop import evaluate
from tests.helpers.features import calibration_of, changed, features_of
from tests.helpers.places import PROJECT
from tests.helpers.stock import OBS, TO, VARIANTS, live_policy
from tests.helpers.toy import ToyTask
from tests.helpers.toy_stack import ToyStack

RULE = Threshold("norm", 0, 0.5, (1.0, 0.0), math.inf, True, (0, 5))


def decided(rule: Threshold, probes: Any, time: Any = None) -> list[list[bool]]:
    decisions = Decisions(rule, time)
    for step, probe in enumerate(probes):
        seen = torch.tensor(probe, dtype=torch.float32)[:, None]
        decisions.ask(step, {rule.probe: lambda seen=seen: seen})
    return [row.tolist() for row in decisions.trace]


def test_changes_accumulate_until_a_step_is_computed() -> None:
    # changes: 0.4, 0.25 -> 0.65; 0, 0, then step 5 in any case, 0.5 is enough
    probes = [[10], [14], [10.5], [10.5], [10.5], [10.5], [15.75]]
    assert decided(RULE, probes) == [[True, False, True, False, False, True, True]]


def test_without_accumulation_the_change_since_the_last_computed_step_counts() -> None:
    rule = replace(RULE, probe="residual", first=1, accumulates=False, always=(0,))
    probes = [[10], [14], [10.5], [14.9], [15.1], [15.1], [7.6]]
    assert decided(rule, probes) == [[True, False, False, False, True, False, False]]


def test_rows_decide_for_themselves_and_what_is_no_number_computes() -> None:
    probes = [[10, 10, 0], [16, 10, 1], [16, math.nan, 1], [16, 10, 1], [16, 10, 1]]
    assert decided(replace(RULE, always=(0,)), probes) == [
        [True, True, False, False, False],
        [True, False, True, True, False],
        [True, True, False, False, False],  # from zero every change is infinite
    ]


def test_rescaling_is_clipped_at_zero_and_unknown_changes_compute() -> None:
    rule = replace(RULE, rescale=(1.0, -0.5), most=1.0, always=(0,))
    assert rule.rescaled(torch.tensor([0.2, 0.75, 2.0]).double()).tolist() == [0.0, 0.25, math.inf]
    assert decided(rule, [[10], [17.5], [17.5], [36]]) == [[True, False, False, True]]


def test_the_time_token_is_part_of_the_probe() -> None:
    time = torch.tensor([[10.0], [10.0], [40.0]])
    # step 1: 4 / (10 + 10); step 2: (0 + 30) / (14 + 10)
    assert decided(replace(RULE, always=(0,)), [[10], [14], [14]], time) == [[True, False, True]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probe": "mean"}, "decide.probe must be norm or residual, got 'mean'"),
        ({"always": (3,)}, r"decide.always must hold step 0, got \[3\]"),
        ({"rescale": (1.0,) * 6}, "decide.rescale must have 1 to 5 coefficients, got 6"),
    ],
)
def test_wrong_rules_are_refused(change: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(RULE, **change)


def test_a_toy_stack_by_hand() -> None:
    """Blocks of factors 2, 3 and 4; block 0 is the probe, what the others add is reused."""
    toy = ToyStack([1, 2, 3], [1, 1.2, 2, 2.2, 2.4])
    rule = Threshold("residual", 1, 0.5, (1.0, 0.0), math.inf, False, (0,))
    plan = replace(shared_plan(toy, range(5), "toy"), decide=rule)
    session = DecidingSession(plan, rule, 1, [], None)
    found = []
    for step, x in enumerate(toy.inputs):
        h = torch.tensor([[[float(x)]]])
        for block, slope in enumerate(toy.slopes):
            h = h + session(step, block, lambda h=h, slope=slope: slope * h)
        found.append(float(h))
    # changes of block 0 since the last computed step: 0.2; 1 (computed); 0.1, 0.2
    assert found == pytest.approx([24, 2.4 + 22, 48, 4.4 + 44, 4.8 + 44])
    assert session.decisions.trace.tolist() == [[True, False, True, False, False]]
    assert session.computed.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]]


def test_engines_ask_and_do_not_know_how_a_rule_decides() -> None:
    for room in ("engines", "attach"):
        for file in sorted((PROJECT / "accel" / room).glob("*.py")):
            for word in ("accumulates", "rescale", ".limit", ".always", ".probe =="):
                assert word not in file.read_text(), f"{file.name} knows {word}"


def inputs(n: int = 3) -> tuple[torch.Tensor, list[torch.Generator]]:
    obs = torch.randn((n, TO, OBS), generator=torch.Generator().manual_seed(3))
    return obs, [torch.Generator().manual_seed(i) for i in range(n)]


def plans(policy: DiffusionPolicy, limit: float = 0.6) -> list[CachePlan]:
    everything = shared_plan(policy, range(policy.n_inference_steps), "rule")
    width = len(policy.sizes.branches)
    tea = Threshold("norm", 0, limit, (0.5, 1.0, 0.0), math.inf, True, (0, 9))
    first = Threshold("residual", width, limit, (1.0, 0.0), math.inf, False, (0, 9))
    return [replace(everything, decide=tea), replace(everything, decide=first)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("which", [0, 1])
def test_engines_decide_and_act_alike(variant: str, which: int) -> None:
    policy = from_reference(live_policy(variant, sampler="ddim"))
    plan = plans(policy)[which]
    found = {}
    for engine in ("reference", FusedConfig(backend="torch"), FusedConfig()):
        with accelerated(policy, plan, engine=engine) as fast:
            actions = fast.act(*inputs())
            found[str(engine)] = actions, fast.stats()
    (expected, stats), *others = found.values()
    trace = np.array(stats["trace"])
    assert trace[:, 0].all()
    assert 0 < trace.mean() < 1
    for actions, theirs in others:
        assert theirs["trace"] == stats["trace"]
        assert np.allclose(theirs["computed"], stats["computed"])
        torch.testing.assert_close(actions, expected, atol=1e-3, rtol=1e-3)
    first = plan.decide.first if plan.decide else 0
    assert np.allclose(np.array(stats["computed"])[:, first:], trace.mean(axis=0)[:, None])
    assert np.allclose(np.array(stats["computed"])[:, :first], 1)


@pytest.mark.parametrize("engine", ["reference", FusedConfig(backend="torch"), FusedConfig()])
def test_a_row_decides_the_same_whatever_its_neighbours(engine: Any) -> None:
    policy = from_reference(live_policy(sampler="ddim"))
    obs, _ = inputs(8)
    for plan in plans(policy):
        with accelerated(policy, plan, engine=engine) as fast:
            rows = [torch.Generator().manual_seed(i) for i in range(8)]
            together, trace = fast.act(obs, rows), fast.stats()["trace"]
            assert len({tuple(row) for row in trace}) > 1  # otherwise nothing is tested
            for row in (0, 5):
                again = [torch.Generator().manual_seed(row) for _ in range(8)]
                alone = fast.act(obs[row].expand(8, -1, -1), again)
                assert torch.equal(alone[0], together[row])
                assert fast.stats()["trace"][0] == trace[row]


class Watched:
    """An accelerated policy that keeps the decisions of every query by its noise."""

    def __init__(self, fast: AcceleratedPolicy) -> None:
        self.fast, self.n_obs_steps, self.n_action_steps = fast, TO, fast.n_action_steps
        self.decided: dict[bytes, tuple[bool, ...]] = {}

    def act(self, obs: torch.Tensor, noise: Sequence[torch.Generator]) -> torch.Tensor:
        states = [bytes(generator.get_state().numpy()) for generator in noise]
        actions = self.fast.act(obs, noise)
        rows = map(tuple, self.fast.stats()["trace"])
        self.decided |= dict(zip(states, rows, strict=True))
        return actions


def test_an_episode_decides_the_same_for_one_environment_and_for_eight() -> None:
    policy = from_reference(live_policy(sampler="ddim"))
    task = ToyTask(obs_dim=OBS, action_dim=3, max_steps=8)
    found = []
    for n_envs in (1, 8):
        with accelerated(policy, plans(policy)[0]) as fast:
            watched = Watched(fast)
            episodes = list(evaluate(watched, task, range(100, 108), n_envs, 0))
            found.append((watched.decided, {e.seed: e.n_queries for e in episodes}))
            if n_envs == 1:  # what pads the batch is not counted
                computed = np.array(fast.stats()["computed"])[:, 0] / fast.n_queries
                expected = np.mean(list(watched.decided.values()), axis=0)
                assert computed == pytest.approx(expected)
    (alone, queries), (together, _) = found
    assert together == alone
    assert len(alone) == sum(queries.values())
    assert len(set(alone.values())) > 2  # otherwise nothing is tested


@pytest.mark.parametrize("engine", ["reference", FusedConfig(backend="torch"), FusedConfig()])
def test_a_limit_of_zero_is_the_plain_policy_and_queries_start_anew(engine: Any) -> None:
    policy = from_reference(live_policy())
    for plan in plans(policy, 0.0):
        with accelerated(policy, plan, engine=engine) as fast:
            torch.testing.assert_close(
                fast.act(*inputs()), policy.act(*inputs()), atol=1e-4, rtol=0
            )
            assert np.all(fast.stats()["trace"])
    for plan in plans(policy):
        with accelerated(policy, plan, engine=engine) as fast:
            first = fast.act(*inputs())
            assert torch.equal(fast.act(*inputs()), first)


def test_nothing_of_the_hook_stays_and_errors_of_branches_know_what_was_computed() -> None:
    policy = from_reference(live_policy(sampler="ddim"))
    plain = policy.act(*inputs())
    errors = branch_errors(policy, plans(policy)[0], *inputs(), progress=False)
    assert 0 < errors.hits.sum() < errors.hits.size
    assert torch.equal(policy.act(*inputs()), plain)
    assert not policy.model.decoder.layers[0].norm1._forward_hooks


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return from_reference(live_policy(sampler="ddim"))


@pytest.fixture(scope="module")
def calibration(policy: DiffusionPolicy) -> Calibration:
    obs, noise = inputs(9)
    return calibrate(policy, obs, noise, batch=4, progress=False)


def test_calibrated_changes_are_those_of_their_definitions(
    policy: DiffusionPolicy, calibration: Calibration
) -> None:
    obs, noise = inputs(9)
    taken: list[torch.Tensor] = []
    layer = policy.model.decoder.layers[0]
    handle = layer.norm1.register_forward_hook(lambda m, a, out: taken.append(out[2]))
    added: list[torch.Tensor] = []

    def keep(step: int, site: int, compute: Any) -> torch.Tensor:
        value: torch.Tensor = compute()
        if site % 3 == 0 and site == 0:
            added.append(torch.zeros(2, *value.shape[1:]))
        added[-1][site // 3] += value[2]
        return value

    policy.act(obs, noise, keep)
    handle.remove()
    live, time = policy.n_live, time_tokens(policy)
    assert time is not None
    m = [torch.cat([t[:live].flatten(), time[s]]).double() for s, t in enumerate(taken)]
    change = [float((b - a).abs().mean() / a.abs().mean()) for a, b in itertools.pairwise(m)]
    assert calibration.probe[2].tolist() == pytest.approx([0, *change], rel=1e-4)
    r = [value[:, :live].double().sum(0) for value in added]
    change = [float((b - a).abs().sum() / a.abs().sum()) for a, b in itertools.pairwise(r)]
    assert calibration.response[2].tolist() == pytest.approx([0, *change], rel=1e-4)
    assert calibration.depth_change[1].diagonal(1) == pytest.approx(
        calibration.response[:, 1:].mean(axis=0), rel=1e-6
    )
    assert calibration.depth_change.shape == (2, 10, 10)


def test_teacache_fits_and_freezes_the_mean(policy: DiffusionPolicy) -> None:
    made = calibration_of(policy, features_of(policy, 8))
    change = np.random.default_rng(0).uniform(0.1, 0.4, (8, 10))
    made = changed(made, probe=change, response=change**2 + 0.1)
    plan = resolve(policy, TeaCacheConfig(threshold=0.35, degree=2, cool_down=1), made)
    rule = plan.decide
    assert rule is not None
    assert rule.rescale == pytest.approx((1, 0, 0.1), abs=1e-6)
    assert (rule.always, rule.first, rule.accumulates) == ((0, 9), 0, True)
    assert rule.most == change[:, 1:].max()
    mean, total, steps = (change**2 + 0.1).mean(axis=0), 0.0, [0]
    for s in range(1, 10):
        total += mean[s]
        if total >= 0.35 or s == 9:
            steps, total = [*steps, s], 0.0
    assert np.flatnonzero(plan.mask.all(axis=1)).tolist() == steps
    static = resolve(policy, TeaCacheConfig("teacache", 0.35, 1, 1, False, 2), made)
    assert static.decide is None
    assert np.array_equal(static.mask, plan.mask)
    assert static.digest() != plan.digest()


def test_first_block_freezes_the_mean_change_since_the_last_computed_step(
    policy: DiffusionPolicy,
) -> None:
    made = calibration_of(policy, features_of(policy, 8))
    plan = resolve(policy, FirstBlockConfig(threshold=0.35, cool_down=0), made)
    assert plan.mask[:, :3].all()
    assert np.flatnonzero(plan.mask[:, 3]).tolist() == [0, 4, 8]  # |i - j| / 10 in the fixture
    with pytest.raises(PlanError, match=r"cache.blocks must be from 1 to 1 \(2 blocks\), got 2"):
        resolve(policy, FirstBlockConfig(blocks=2), made)


def test_polynomials_of_few_changes_are_of_a_lower_degree() -> None:
    assert fitted_polynomial(np.full(9, 0.5), np.full(9, 2.0), 4) == (2.0,)
    assert fitted_polynomial(np.array([0, 1, 0]), np.array([1, 3, 1]), 4) == pytest.approx((2, 1))
    assert fitted_polynomial(np.zeros(0), np.zeros(0), 4) == (0.0,)


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        (TeaCacheConfig, {"threshold": -1}, "cache.threshold must be at least 0 and finite"),
        (TeaCacheConfig, {"degree": 5}, "cache.degree must be from 1 to 4, got 5"),
        (FirstBlockConfig, {"warm_up": 0}, "cache.warm_up must be at least 1, got 0"),
        (FirstBlockConfig, {"blocks": 0}, "cache.blocks must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(config: Any, settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**settings)


def test_without_a_calibration_the_caches_are_refused(policy: DiffusionPolicy) -> None:
    for config in (TeaCacheConfig(), FirstBlockConfig()):
        with pytest.raises(PlanError, match=f"cache={config.name} needs a calibration"):
            resolve(policy, config)


def test_a_trace_is_frozen_into_a_static_plan(policy: DiffusionPolicy) -> None:
    plan = plans(policy)[1]
    traces = np.zeros((3, 10), dtype=bool)
    traces[:2, 4] = traces[2, 6] = traces[:, 0] = True
    static = freeze(plan, traces)
    assert static.decide is None
    assert np.flatnonzero(static.mask[:, 3]).tolist() == [0, 4, 9]
    assert static.mask[:, :3].all()
    with pytest.raises(ValueError, match=r"traces must be \(queries, 10\), got \(3, 4\)"):
        freeze(plan, traces[:, :4])


def test_plan_files_hold_the_rule(policy: DiffusionPolicy, tmp_path: Path) -> None:
    for plan in plans(policy):
        plan.save(tmp_path / "plan.json")
        again = CachePlan.load(tmp_path / "plan.json")
        assert again.decide == plan.decide
        assert again.digest() == plan.digest() != replace(plan, decide=None).digest()
    content = json.loads((tmp_path / "plan.json").read_text())
    content["decide"]["limit"] = 0.1
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="digest does not match"):
        CachePlan.load(tmp_path / "plan.json")
    other = from_reference(live_policy(seed=1))
    with pytest.raises(PlanError, match="the plan decides at run time"):
        adapt_plan(replace(resolve(policy, plans(policy)[0])), other, True, True)


def test_a_plan_that_decides_holds_together(policy: DiffusionPolicy) -> None:
    plan = plans(policy)[1]
    with pytest.raises(PlanError, match="cannot forecast"):
        replace(plan, alpha=np.ones((*plan.mask.shape, 1)))
    assert plan.decide is not None
    with pytest.raises(PlanError, match=r"plan.decide.first must be a site from 0 to 5"):
        replace(plan, decide=replace(plan.decide, first=6))
    with pytest.raises(PlanError, match=r"plan.decide.always must be steps from 0 to 9, got 10"):
        replace(plan, decide=replace(plan.decide, always=(0, 10)))
