"""Samplers of flow matching: the rows of Euler's and Runge and Kutta's steps, in every engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accel import UniformConfig, accelerated, resolve
from accel.plans.plan import PlanSampler
from policies import (
    DiffusionPolicy,
    SamplerConfig,
    choose_sampler,
    from_reference,
    load_policy,
    sampler_table,
    sampler_warnings,
    save_policy,
)
from policies.clipping import cuts
from policies.sampling.flow import CALLS, VELOCITY
from policies.sampling.samplers import KINDS
from runners.studies.arms import CALLS as LABELLED
from runners.studies.arms import sampler_label
from tests.helpers.dit import DIFFUSION, flow
from tests.helpers.stock import OBS, TO, live_policy
from tests.helpers.stock_unet import live_unet

Velocity = Callable[[Tensor, float], Tensor]
LIVE: dict[str, Callable[[], Any]] = {"transformer": live_policy, "unet": live_unet}


def followed(kind: str, steps: int, x: Tensor, velocity: Velocity) -> Tensor:
    """As a textbook has it, on LeRobot's grid."""
    ends = torch.linspace(0, 1, steps + 1)
    for begin, end in itertools.pairwise(ends):
        t, dt = begin.item(), (end - begin).item()
        k1 = velocity(x, t)
        if kind == "euler":
            x = x + dt * k1
            continue
        k2 = velocity(x + dt / 2 * k1, t + dt / 2)
        k3 = velocity(x + dt / 2 * k2, t + dt / 2)
        k4 = velocity(x + dt * k3, t + dt)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@settings(deadline=None, max_examples=30)
@given(kind=st.sampled_from(sorted(CALLS)), steps=st.integers(1, 30), seed=st.integers(0, 99))
def test_rows_are_the_steps_of_the_method(kind: str, steps: int, seed: int) -> None:
    config = flow(kind, steps)
    table = sampler_table(config)
    assert len(table) == steps * CALLS[kind]
    start = torch.randn((2, 4, 3), generator=torch.Generator().manual_seed(seed)).double()
    seen: list[float] = []

    def velocity(x: Tensor, t: float) -> Tensor:
        seen.append(t)
        return torch.sin(3 * x + t)

    expected = followed(kind, steps, start, velocity)
    assert np.array_equal(table.timesteps, np.array(seen, np.float32))
    x, last = start, list[Tensor]()
    for s, t in enumerate(table.timesteps.tolist()):
        x = table.step(s, x, torch.sin(3 * x + t), None, last)
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=0)
    assert not table.draws.any()
    assert table.clip is None


def test_fourth_order_is_exact_where_euler_is_not() -> None:
    """x' = x from 1: the value at time 1 is e."""
    errors = {}
    for kind in CALLS:
        table, x, last = sampler_table(flow(kind, 10)), torch.ones(1, 1, 1).double(), list[Tensor]()
        for s in range(len(table)):
            x = table.step(s, x, x, None, last)
        errors[kind] = abs(x.item() - np.e)
    assert errors["rk4"] < 5e-6
    assert errors["euler"] > 0.1


@pytest.mark.parametrize("sigma_min", [0.0, 0.1])
def test_a_perfect_velocity_leads_to_the_actions(sigma_min: float) -> None:
    """Also each step's clean actions are them, and alpha-bar is their share of the variance."""
    x1, z = torch.tensor([[[0.7]]]), torch.tensor([[[-1.3]]])
    config = flow("euler", 5, sigma_min=sigma_min)
    table, x = sampler_table(config), z
    v = x1 - (1 - sigma_min) * z
    for s, t in enumerate(table.timesteps.tolist()):
        torch.testing.assert_close(x, t * x1 + (1 - (1 - sigma_min) * t) * z)
        clean = table.in_x[s].item() * x + table.in_out[s].item() * v
        torch.testing.assert_close(clean, x1)
        x = table.step(s, x, v, None)
    torch.testing.assert_close(x, x1 + sigma_min * z)


def test_alpha_bar_rises_from_noise_to_actions() -> None:
    policy = from_reference(live_policy())
    base = replace(policy.config, sampler=flow("euler", 4))
    bars = DiffusionPolicy(base).alpha_bar
    np.testing.assert_allclose(bars, [0, 0.1, 0.5, 0.9], atol=1e-6)
    calls = DiffusionPolicy(base).with_sampler("rk4", 2).alpha_bar
    np.testing.assert_allclose(calls, [0, 0.1, 0.1, 0.5, 0.5, 0.9, 0.9, 1], atol=1e-6)


def test_choosing_among_them() -> None:
    base = flow("euler", 10)
    assert choose_sampler(base) == base
    assert choose_sampler(base, "euler") == base
    assert choose_sampler(base, "rk4") == flow("rk4", 10)
    assert choose_sampler(base, "rk4", 3) == flow("rk4", 3)
    assert choose_sampler(base, steps=500).steps == 500  # no timesteps of a training bound it
    assert base.with_steps("rk4", 2) == flow("rk4", 2)
    assert sampler_warnings(base) == []
    assert base.settings() == {"kind": "euler", "steps": 10, "prediction_type": VELOCITY}
    assert SamplerConfig(**flow("rk4", 2, sigma_min=0.1).settings()).sigma_min == 0.1
    assert sampler_label(base.settings()) == "euler-10"
    assert sampler_label(flow("rk4", 5).settings()) == "rk4-5, 20 calls"
    assert {kind: n for kind, n in CALLS.items() if n > 1} == LABELLED


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_sampler_steps_by_what_the_policy_predicts(kind: str) -> None:
    """The whole table, from policies of either kind, by name, as a config and at run time."""
    follows = kind in CALLS
    wrong = DIFFUSION if follows else flow()
    able = ("ddpm, ddim or dpmpp", "euler or rk4")[not follows]
    words = f"^sampler={kind} is of policies that predict .*, this one has .*: take sampler={able}$"
    policy = DiffusionPolicy(replace(from_reference(live_policy()).config, sampler=wrong)).eval()
    asks: list[Callable[[], object]] = [
        lambda: choose_sampler(wrong, kind, 3),
        lambda: policy.with_sampler(kind),
        lambda: wrong.with_steps(kind, 3),
        lambda: SamplerConfig(kind, 3, prediction_type=wrong.prediction_type),
        lambda: accelerated(policy, sampler=kind).__enter__(),
    ]
    for ask in asks:
        with pytest.raises(ValueError, match=words):
            ask()


OF_DIFFUSION: dict[str, Any] = {
    **{"spacing": "even", "timesteps": [1], "power": 2.0, "eta": 0.5, "order": 2},
    **{"stochastic": True, "variance_type": "fixed_large"},
}


@pytest.mark.parametrize("setting", OF_DIFFUSION)
def test_settings_of_diffusion_are_refused(setting: str) -> None:
    value = OF_DIFFUSION[setting]
    with pytest.raises(ValueError, match=rf"^sampler\.{setting} is of diffusion, got "):
        choose_sampler(flow(), "rk4", **{setting: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"sigma_min": 1.0}, "sigma_min must be at least 0 and below 1"),
        ({"sigma_min": float("nan")}, "sigma_min must be a finite number"),
        ({"beta_end": 0.5}, "beta_end is of diffusion, got 0.5 with sampler=euler"),
        ({"clip_sample": False}, "clip_sample is of diffusion"),
        ({"kind": "ddpm", "prediction_type": "epsilon", "sigma_min": 0.1}, "exists for euler, rk4"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        replace(flow(), **change)
    assert "\n" not in str(error.value)


def query(name: str) -> tuple[Tensor, list[torch.Generator]]:
    obs = torch.randn((3, TO, OBS), generator=torch.Generator().manual_seed(1))
    return obs, [torch.Generator().manual_seed(i) for i in range(3)]


def flowing(name: str, kind: str) -> DiffusionPolicy:
    policy = from_reference(LIVE[name]())
    twin = DiffusionPolicy(replace(policy.config, sampler=flow(kind, 4)))
    twin.load_state_dict(policy.state_dict())
    return twin.eval()


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("kind", CALLS)
def test_engines_agree_on_policies_of_any_family(name: str, kind: str) -> None:
    """Whole, and with a cache: a call of the network is a row of the plan."""
    policy = flowing(name, kind)
    calls = 4 * CALLS[kind]
    assert policy.n_inference_steps == calls
    for cache in (None, UniformConfig(steps=3)):
        found = []
        for engine in ("reference", "fused"):
            with accelerated(policy, cache, engine=engine) as fast:
                found.append(fast.act(*query(name)))
                assert np.shape(fast.stats()["computed"])[0] == calls
        torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)
        if cache is None:
            assert torch.equal(found[0], policy.act(*query(name)))


@pytest.mark.parametrize("kind", CALLS)
def test_the_policy_follows_what_its_network_says(kind: str) -> None:
    policy = flowing("transformer", kind)
    obs, noise = query("transformer")
    shape = (1, policy.horizon, policy.sizes.input_dim)
    start = torch.cat([torch.randn(shape, generator=g) for g in query("transformer")[1]])
    cond = policy.encode(obs)

    def velocity(x: Tensor, t: float) -> Tensor:
        with torch.no_grad():
            out: Tensor = policy.model(x, torch.full((3,), t), cond)
        return out

    expected = followed(kind, 4, start, velocity)
    torch.testing.assert_close(policy.sample(obs, noise), expected, atol=1e-5, rtol=1e-5)


def test_a_flow_policy_is_saved_and_loaded(tmp_path: Path) -> None:
    policy = flowing("unet", "rk4")
    save_policy(policy, tmp_path / "a", torch.float32)
    again = load_policy(tmp_path / "a")
    assert again.config == policy.config
    assert again.fingerprint() == policy.fingerprint()
    assert torch.equal(again.act(*query("unet")), policy.act(*query("unet")))
    assert cuts(again.config, again.normalizer) == []  # nothing is clipped


def test_a_plan_moves_between_its_samplers_by_alpha_bar() -> None:
    policy = flowing("transformer", "euler")
    plan = resolve(policy, UniformConfig(steps=2))
    assert PlanSampler.of(policy) == plan.sampler
    assert str(plan.sampler) == "euler with 4 steps"
    other = flowing("transformer", "rk4")
    with pytest.raises(ValueError, match="the plan has 4 steps, the policy's sampler 16"):
        plan.check(other)
