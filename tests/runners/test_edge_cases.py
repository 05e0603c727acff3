"""The edges of caching, in the order in which docs/caches.md lists them.

Tested elsewhere: more update steps than the sampler has, on the command line (test_cli); blocks of
the bubbling union from 0 to too many (test_schedules, test_the_most_volatile_blocks_are_chosen and
test_bac_computes_its_schedules_and_the_union); no calibration (test_schedules) and no plan
(test_saved_plans); another checkpoint, number of steps, sampler or network (test_saved_plans,
test_accel); batches that change (test_accel); fewer stored values than the order needs
(test_forecast; test_schedules, test_an_order_that_no_anchors_allow_is_lowered); a first step that
is not computed (test_accel); NaN by the name of the block (test_calibration, test_schedules) and
never hidden (test_fused); UNets (test_unet_cache); unknown metrics (test_cli, test_schedules);
double acceleration and training mode at the start (test_accel).
"""

from __future__ import annotations

import logging
from typing import Any

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
    calibrate,
    resolve,
    shared_plan,
    sites_of,
)
from policies import DiffusionPolicy, UnsupportedPolicy, from_reference, policy_config
from tests.helpers.features import calibration_of, features_of
from tests.helpers.stock import OBS, TO, live_policy

ENGINES = ("reference", "fused")
POLICY = from_reference(live_policy("causal"))
CALIBRATION = calibration_of(POLICY, features_of(POLICY, 8))


def inputs(n: int = 2) -> tuple[torch.Tensor, list[torch.Generator]]:
    obs = torch.randn((n, TO, OBS), generator=torch.Generator().manual_seed(3))
    return obs, [torch.Generator().manual_seed(i) for i in range(n)]


def in_both_engines(policy: DiffusionPolicy, plan: CachePlan) -> torch.Tensor:
    """Actions, the same in both engines."""
    found = []
    for engine in ENGINES:
        with accelerated(policy, plan, engine=engine) as fast:
            found.append(fast.act(*inputs()))
            assert fast.stats()["computed"] == plan.mask.astype(int).tolist()
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-4)
    return found[0]


METHODS = [UniformConfig, BacConfig, HashAbConfig]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [10, 13])
def test_as_many_updates_as_steps_or_more_compute_everything_and_say_so(
    method: Any, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        plan = resolve(POLICY, method(steps=steps), CALIBRATION)
    assert plan.mask.all()
    assert f"cache={method.name}: every cell is computed, nothing is a hit" in caplog.text
    assert (f"cache.steps={steps}: the sampler has 10 steps" in caplog.text) == (steps > 10)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_update_is_step_0(method: Any) -> None:
    alone = {} if method is UniformConfig else {"extra": 0.0}
    plan = resolve(POLICY, method(steps=1, **alone), CALIBRATION)
    assert np.flatnonzero(plan.mask.any(axis=1)).tolist() == [0]
    assert plan.mask[0].all()
    assert in_both_engines(POLICY, plan).isfinite().all()


def test_fewer_ddim_steps_are_calibrated_natively() -> None:
    policy = POLICY.with_sampler(POLICY.config.sampler.with_steps("ddim", 5))
    with pytest.raises(PlanError, match="the calibration has 10 steps, the policy's sampler 5"):
        resolve(policy, BacConfig(steps=2), CALIBRATION)
    obs = torch.randn((8, TO, OBS), generator=torch.Generator().manual_seed(0))
    noise = [torch.Generator().manual_seed(i) for i in range(8)]
    own = calibrate(policy, obs, noise, progress=False)
    plan = resolve(policy, BacConfig(layout="block", steps=2, k=0), own)
    assert plan.mask.shape == (5, 6)
    assert (plan.mask.sum(axis=0) == 2).all()
    assert plan.mask[4].all()
    in_both_engines(policy, plan)


def test_the_encoder_only_form_has_two_sites_a_layer() -> None:
    policy = from_reference(live_policy("encoder-only"))
    names = [site.name for site in sites_of(policy)]
    assert names == [f"encoder.layers.{layer}.{op}" for layer in (0, 1) for op in ("sa", "ff")]
    calibration = calibration_of(policy, features_of(policy, 8))
    plan = resolve(policy, HashAbConfig(layout="block", steps=4, k=2), calibration)
    assert plan.mask.shape == (10, 4)
    assert not plan.mask.all(axis=0).any()
    in_both_engines(policy, plan)


def test_an_image_policy_is_refused_by_name() -> None:
    target = "diffusion_policy.policy.robomimic_image_policy.RobomimicImagePolicy"
    words = r"RobomimicImagePolicy is not supported \(it is robomimic's recurrent policy"
    with pytest.raises(UnsupportedPolicy, match=words):
        policy_config({"policy": {"_target_": target}})


@pytest.mark.parametrize("engine", ENGINES)
def test_a_direct_call_passes_through_uncached(engine: str) -> None:
    """Of the network or the plain policy, between and inside queries of the accelerated one."""
    sample, cond = torch.ones(2, 8, 3), torch.ones(2, TO, OBS)
    times = torch.tensor([18, 18])
    with torch.no_grad():
        expected = POLICY.model(sample, times, cond)
    plain = POLICY.act(*inputs())
    with accelerated(POLICY, UniformConfig(steps=3), engine=engine) as fast:
        first = fast.act(*inputs())
        before = fast.stats()
        with torch.no_grad():
            assert torch.equal(POLICY.model(sample, times, cond), expected)
        assert torch.equal(POLICY.act(*inputs()), plain)
        assert fast.stats() == before
        assert torch.equal(fast.act(*inputs()), first)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stochastic_sampler_draws_the_same_noise_with_and_without_a_cache(engine: str) -> None:
    assert POLICY.table.draws.any()
    left = []
    for steps in (10, 3):
        obs, noise = inputs()
        with accelerated(POLICY, UniformConfig(steps=steps), engine=engine) as fast:
            actions = fast.act(obs, noise)
        left.append([g.get_state() for g in noise])
        if steps == 10:
            torch.testing.assert_close(actions, POLICY.act(*inputs()), atol=1e-3, rtol=1e-4)
    obs, noise = inputs()
    POLICY.act(obs, noise)
    left.append([g.get_state() for g in noise])
    for states in zip(*left, strict=True):
        assert all(torch.equal(state, states[0]) for state in states)


@pytest.mark.parametrize("engine", ENGINES)
def test_training_mode_inside_a_context_is_refused(engine: str) -> None:
    policy = from_reference(live_policy("causal"))
    with accelerated(policy, engine=engine) as fast:
        policy.train()
        with pytest.raises(RuntimeError, match="training mode"):
            fast.act(*inputs())


def test_two_accelerations_of_one_policy_do_not_meet() -> None:
    def alone(steps: int) -> torch.Tensor:
        with accelerated(POLICY, UniformConfig(steps=steps)) as fast:
            return fast.act(*inputs())

    expected = [alone(3), alone(6)]
    with accelerated(POLICY, UniformConfig(steps=3)) as one:
        with accelerated(POLICY, UniformConfig(steps=6)) as other:
            for _ in range(2):
                assert torch.equal(one.act(*inputs()), expected[0])
                assert torch.equal(other.act(*inputs()), expected[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_model_is_not_called_more_often_than_planned(engine: str) -> None:
    """The policy's own loop counts the calls; a plan of another number is never begun with."""
    policy = from_reference(live_policy("causal"))
    calls = []
    policy.model.register_forward_pre_hook(lambda *_: calls.append(1))
    longer = policy.with_sampler(policy.config.sampler.with_steps(steps=20))
    for steps, other in ((10, longer), (20, policy)):
        plan = shared_plan(longer if steps == 20 else policy, [0, 2], "two")
        with pytest.raises(PlanError, match=f"the plan has {steps} steps"):
            with accelerated(other, plan, engine=engine):
                pass
    with accelerated(policy, UniformConfig(steps=3), engine=engine) as fast:
        for query in (1, 2):
            fast.act(*inputs())
            assert np.sum(fast.stats()["computed"]) == query * 3 * 6
            assert len(calls) == (query * 10 if engine == "reference" else 0)
        policy.table = longer.table
        with pytest.raises(RuntimeError, match="called 20 times a query, the plan has 10 steps"):
            fast.act(*inputs())
