"""Chosen samplers against diffusers' schedulers on the same lists, and in every engine."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from accel import accelerated
from accel.engines import FusedConfig
from policies import (
    SamplerConfig,
    choose_sampler,
    load_policy,
    sampler_table,
    sampler_warnings,
    save_policy,
)
from policies.sampling.table import alphas_cumprod, timesteps
from tests.accel.test_fused import POLICIES, random_plan
from tests.helpers.places import PROJECT
from tests.helpers.stock import OBS, TO

N = 50
BASE = SamplerConfig(steps=N, num_train_timesteps=N)
SPACINGS = ["trailing", "even", "linspace", "quadratic", "power"]
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]


@st.composite
def chosen_lists(draw: st.DrawFn) -> dict[str, Any]:
    """A spacing and a number of steps, or a list."""
    if draw(st.booleans()):
        return {"spacing": draw(st.sampled_from(SPACINGS)), "steps": draw(st.integers(1, N))}
    visited = draw(st.sets(st.integers(0, N - 1), min_size=1, max_size=20))
    return {"timesteps": sorted(visited, reverse=True)}


def trajectory(seed: int) -> torch.Tensor:
    return torch.randn((2, 4, 3), generator=torch.Generator().manual_seed(seed))


def close(got: torch.Tensor, expected: torch.Tensor, words: object) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5, msg=str(words))


@settings(deadline=None, max_examples=100)
@given(
    listed=chosen_lists(),
    beta_schedule=st.sampled_from(SCHEDULES),
    prediction_type=st.sampled_from(PREDICTIONS),
    variance_type=st.sampled_from(["fixed_small", "fixed_large"]),
    clip_sample=st.booleans(),
)
def test_ddpm_on_a_list_is_diffusers_up_to_its_last_step(
    listed: dict[str, Any], clip_sample: bool, **process: Any
) -> None:
    config = choose_sampler(replace(BASE, clip_sample=clip_sample, **process), "ddpm", **listed)
    table = sampler_table(config)
    scheduler = DDPMScheduler(num_train_timesteps=N, clip_sample=clip_sample, **process)
    scheduler.set_timesteps(timesteps=table.timesteps.tolist())
    ours, theirs = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    x = trajectory(1)
    for s, t in enumerate(scheduler.timesteps):
        out = torch.sin(3 * x + s)
        expected = scheduler.step(out, t, x, generator=theirs).prev_sample
        noise = torch.randn(x.shape, generator=ours) if table.draws[s] else None
        got = table.step(s, x, out, noise)
        if s < len(table) - 1 or config == BASE:
            close(got, expected, (config, s))
        else:  # the actions are what the network takes for clean
            x0 = table.in_x[s].item() * x + table.in_out[s].item() * out
            close(got, x0.clamp(-1, 1) if clip_sample else x0, (config, s))
        x = expected.clamp(-50, 50)
    assert torch.equal(torch.randn(3, generator=ours), torch.randn(3, generator=theirs))


@settings(deadline=None, max_examples=100)
@given(
    listed=chosen_lists(),
    beta_schedule=st.sampled_from(SCHEDULES),
    prediction_type=st.sampled_from(PREDICTIONS),
    order=st.integers(1, 3),
    stochastic=st.booleans(),
)
def test_dpmpp_is_diffusers(
    listed: dict[str, Any], order: int, stochastic: bool, **process: Any
) -> None:
    n = len(listed.get("timesteps", ())) or listed["steps"]
    order = min(order, n)
    config = choose_sampler(
        replace(BASE, clip_sample=False, **process),
        "dpmpp",
        order=order,
        stochastic=stochastic,
        **listed,
    )
    table = sampler_table(config)
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=N,
        algorithm_type="sde-dpmsolver++" if stochastic else "dpmsolver++",
        solver_order=order,
        lower_order_final=True,
        final_sigmas_type="zero",
        **process,
    )
    scheduler.set_timesteps(timesteps=table.timesteps.tolist())
    ours, theirs = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    x, last = trajectory(1), list[torch.Tensor]()
    for s, t in enumerate(scheduler.timesteps):
        out = torch.sin(x + s)
        expected = scheduler.step(out, t, x, generator=theirs).prev_sample
        noise = torch.randn(x.shape, generator=ours) if table.draws[s] else None
        got = table.step(s, x, out, noise, last)
        values = max(1.0, *(float(v.abs().max()) for v in (expected, *last)))
        weights = abs(table.x0_scale[s]) + np.abs(table.last_scale[s]).sum()
        largest = values * max(1.0, float(weights))  # extrapolation magnifies float32
        close(got / largest, expected / largest, (config, s))
        x = expected


@settings(deadline=None, max_examples=60)
@given(
    listed=chosen_lists(), eta=st.sampled_from([0.0, 0.5, 1.0]), schedule=st.sampled_from(SCHEDULES)
)
def test_ddim_aims_at_the_next_timestep(listed: dict[str, Any], eta: float, schedule: str) -> None:
    config = choose_sampler(replace(BASE, beta_schedule=schedule), "ddim", eta=eta, **listed)
    table, bar = sampler_table(config), alphas_cumprod(config).astype(np.float64)
    x, generator = trajectory(1), torch.Generator().manual_seed(0)
    for s, t in enumerate(table.timesteps):
        out = torch.sin(3 * x + s)
        noise = torch.randn(x.shape, generator=generator) if table.draws[s] else None
        a = bar[t]
        a_prev = bar[table.timesteps[s + 1]] if s + 1 < len(table) else 1.0
        x0 = ((x.double() - (1 - a) ** 0.5 * out) / a**0.5).clamp(-1, 1)
        sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)) ** 0.5
        expected = a_prev**0.5 * x0 + max(1 - a_prev - sigma**2, 0) ** 0.5 * out
        expected += 0 if noise is None else sigma * noise
        x = table.step(s, x, out, noise)
        torch.testing.assert_close(x.double(), expected, atol=1e-5, rtol=1e-5, msg=str(config))


def test_dpmpp_clips_what_it_takes_for_clean() -> None:
    table = sampler_table(choose_sampler(BASE, "dpmpp", 6, order=3))
    x, last = trajectory(1), list[torch.Tensor]()
    for s in range(6):
        out = 3 * torch.sin(3 * x + s)
        x0 = (table.in_x[s].item() * x + table.in_out[s].item() * out).clamp(-1, 1)
        scales = table.last_scale[s].tolist()
        expected = table.x0_scale[s].item() * x0 + table.x_scale[s].item() * x
        for scale, earlier in zip(scales, last, strict=False):
            expected = expected + scale * earlier
        x = table.step(s, x, out, None, last)
        close(x, expected, s)
        assert last[0].abs().max() <= 1


@pytest.mark.parametrize("n", [1, 2, 3, 7, 22, 51, 99, 100])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_chosen_list_starts_at_the_noisiest_timestep(spacing: str, n: int) -> None:
    found = timesteps(choose_sampler(SamplerConfig(), "ddpm", n, spacing=spacing))
    assert len(found) == n
    assert found[0] == 99
    assert found[-1] >= 0
    assert (np.diff(found) < 0).all()
    if spacing != "trailing" and n > 1:
        assert found[-1] == 0


def test_lists_that_papers_and_studies_name() -> None:
    def of(n: int, spacing: str) -> list[int]:
        found: list[int] = timesteps(choose_sampler(SamplerConfig(), "ddpm", n, spacing=spacing))
        return found if isinstance(found, list) else found.tolist()

    assert of(5, "trailing") == [99, 79, 59, 39, 19]
    assert of(10, "trailing") == [99, 89, 79, 69, 59, 49, 39, 29, 19, 9]
    assert of(10, "quadratic") == [99, 78, 60, 44, 31, 20, 11, 5, 1, 0]
    assert of(4, "even") == [99, 66, 33, 0]


@pytest.mark.parametrize("spelling", ["null", "steps", "list", "leading"])
def test_the_checkpoints_own_list_is_the_checkpoints_sampler(spelling: str) -> None:
    """Bit-equal, and recognised: whichever way it was said, the run is the same run."""
    base = SamplerConfig(num_train_timesteps=60, steps=20, variance_type="fixed_large")
    asked: dict[str, Any] = {
        "null": {},
        "steps": {"steps": 20},
        "list": {"timesteps": timesteps(base).tolist()},
        "leading": {"steps": 20, "spacing": "leading"},
    }[spelling]
    assert choose_sampler(base, "ddpm", **asked) == base
    assert choose_sampler(base, **asked) == base


def test_another_number_of_steps_is_trailing_but_for_the_checkpoints_own_sampler() -> None:
    base = SamplerConfig()
    assert choose_sampler(base, "ddpm", 5).spacing == "trailing"
    assert choose_sampler(base, "ddim", 5).spacing == "trailing"
    assert choose_sampler(base, "dpmpp", 5).spacing == "trailing"
    assert choose_sampler(base, "ddim").spacing is None
    assert choose_sampler(base, steps=12) == base.with_steps(steps=12)
    library = choose_sampler(base, "ddim", 12, spacing="checkpoint")
    assert library == base.with_steps("ddim", 12)
    assert library.settings() == {  # as published runs have it
        k: v for k, v in library.settings().items() if k not in ("spacing", "timesteps", "order")
    }


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"spacing": "cosine"}, "sampler.spacing must be one of checkpoint, leading, trailing"),
        ({"steps": 101}, "sampler.steps must be from 1 to 100"),
        ({"steps": 0}, "sampler.steps must be at least 1, got 0"),
        ({"timesteps": [99, 50, 50]}, "each smaller than the one before, got [99, 50, 50]"),
        ({"timesteps": [50, 99]}, "got [50, 99]"),
        ({"timesteps": [100, 3]}, "from 99 to 0"),
        ({"timesteps": [3, -1]}, "from 99 to 0"),
        ({"timesteps": []}, "from 99 to 0"),
        ({"timesteps": [True, 0]}, "whole numbers"),
        ({"timesteps": [99, 9], "steps": 3}, "sampler.steps must be 2"),
        ({"timesteps": [99, 9], "spacing": "even"}, "excludes sampler.spacing"),
        ({"variance_type": "fixed"}, "sampler.variance_type must be one of fixed_small"),
        ({"variance_type": "fixed_large", "kind": "ddim"}, "variance_type exists for ddpm only"),
        ({"variance_type": "fixed_large", "kind": "dpmpp"}, "got fixed_large with dpmpp"),
        ({"eta": 0.5}, "sampler.eta exists for ddim only, got 0.5 with ddpm"),
        ({"eta": 0.5, "kind": "dpmpp"}, "sampler.eta exists for ddim only"),
        ({"eta": 1.5, "kind": "ddim"}, "sampler.eta must be from 0 to 1, got 1.5"),
        ({"order": 2}, "sampler.order exists for dpmpp only"),
        ({"stochastic": True, "kind": "ddim"}, "sampler.stochastic exists for dpmpp only"),
        ({"order": 3, "steps": 2, "kind": "dpmpp"}, "sampler.order must be at most sampler.steps"),
        ({"order": 4, "kind": "dpmpp"}, "sampler.order must be one of 1, 2, 3, got 4"),
        ({"power": 2.0}, "sampler.power needs sampler.spacing=power"),
        ({"power": 0.5, "spacing": "power"}, "sampler.power must be from 1 to 10"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, Any], words: str) -> None:
    asked = {"kind": "ddpm", **asked}
    with pytest.raises(ValueError, match="sampler") as error:
        choose_sampler(SamplerConfig(), **asked)
    assert words in str(error.value)


def test_dpmpp_has_no_log_snr_at_zero_snr() -> None:
    base = SamplerConfig(rescale_betas_zero_snr=True, prediction_type="sample")
    with pytest.raises(ValueError, match="log-SNR"):
        choose_sampler(base, "dpmpp", 5)


def test_what_starts_late_or_aims_elsewhere_is_said() -> None:
    base = SamplerConfig()
    assert sampler_warnings(base) == []
    assert sampler_warnings(choose_sampler(base, "ddpm", 5)) == []
    (late,) = sampler_warnings(base.with_steps(steps=51))
    assert "starts at timestep 50 of 100" in late
    (quirk,) = sampler_warnings(replace(base, timestep_spacing="linspace").with_steps("ddim", 22))
    assert "aims each step at t - 4" in quirk
    assert sampler_warnings(choose_sampler(base, "ddim", 22)) == []


CHOSEN: list[dict[str, Any]] = [
    {"sampler": "ddpm", "steps": 4},
    {"sampler": "ddpm", "timesteps": [9, 6, 2]},
    {"sampler": "ddim", "steps": 4, "spacing": "quadratic", "eta": 1.0},
    {"sampler": "dpmpp", "steps": 6},
    {"sampler": "dpmpp", "steps": 7, "order": 3, "spacing": "even"},
    {"sampler": "dpmpp", "steps": 5, "order": 3, "stochastic": True},
]


@settings(deadline=None, max_examples=60)
@given(
    variant=st.sampled_from(sorted({name for name, _ in POLICIES})),
    chosen=st.sampled_from(CHOSEN),
    seed=st.integers(0, 2**32 - 1),
    n_slots=st.integers(1, 3),
    batch=st.integers(1, 3),
    backend=st.sampled_from(["auto", "torch"]),
)
def test_engines_agree_on_chosen_samplers_under_random_plans(
    variant: str, chosen: dict[str, Any], seed: int, n_slots: int, batch: int, backend: str
) -> None:
    policy = POLICIES[variant, 0].with_sampler(**chosen)
    plan = random_plan(policy, seed, 0.6, n_slots)
    obs = torch.randn((batch, TO, OBS), generator=torch.Generator().manual_seed(seed % 1000))

    def act(engine: Any) -> torch.Tensor:
        noise = [torch.Generator().manual_seed(seed % 997 + i) for i in range(batch)]
        with accelerated(policy, plan, engine=engine) as fast:
            actions: torch.Tensor = fast.act(obs, noise)
            return actions

    expected, actions = act("reference"), act(FusedConfig(backend=backend))
    scale = policy.normalizer.params_dict["action"]["scale"]
    torch.testing.assert_close(actions * scale, expected * scale, atol=1e-4, rtol=0)


def test_a_call_may_name_another_sampler() -> None:
    policy = POLICIES["causal", 0]
    obs = torch.zeros(1, TO, OBS)
    with accelerated(policy, sampler="ddpm", steps=3) as fast:
        actions = fast.act(obs, torch.Generator().manual_seed(0))
        assert np.shape(fast.stats()["computed"])[0] == 3
    expected = policy.with_sampler("ddpm", 3).act(obs, torch.Generator().manual_seed(0))
    torch.testing.assert_close(actions, expected, atol=1e-4, rtol=0)
    assert policy.n_inference_steps == 10


def test_a_call_may_have_a_whole_sampler() -> None:
    policy = POLICIES["causal", 0]
    obs = torch.zeros(1, TO, OBS)
    settings: dict[str, Any] = {"spacing": "even", "order": 3, "stochastic": True}
    config = choose_sampler(policy.config.sampler, "dpmpp", 4, **settings)
    with accelerated(policy, sampler=config) as fast:
        actions = fast.act(obs, torch.Generator().manual_seed(0))
    same_way = policy.with_sampler("dpmpp", 4, **settings)
    expected = same_way.act(obs, torch.Generator().manual_seed(0))
    torch.testing.assert_close(actions, expected, atol=1e-4, rtol=0)
    for wrong, words in (
        ({"sampler": config, "steps": 3}, "steps and other settings go with a kind"),
        ({"sampler": {"kind": "ddim"}}, "sampler must be a kind or a SamplerConfig"),
    ):
        with pytest.raises(TypeError, match=words), accelerated(policy, **wrong):
            pass


def test_settings_that_are_new_leave_the_identity_of_others(tmp_path: Path) -> None:
    """What was hashed and written before chosen samplers existed is hashed and written today."""
    known = {
        "kitchen": "9dbfb92d53636e5b299755bcca9b82152018fe95b626d0db8c14546e2d7659ca",
        "lift": "b563262347aa4d02b04a1b4e1f8b7082c7dabd2da14a3e538cb341d82d01ffb5",
    }
    for name, digest in known.items():
        policy = load_policy(PROJECT / "checkpoints" / name)
        assert policy.fingerprint() == digest
        assert policy.with_sampler("ddpm", 5).fingerprint() != digest
        assert "spacing" not in policy.sampler_settings


@pytest.mark.skipif(
    shutil.which("cc") is None or "avx512f" not in Path("/proc/cpuinfo").read_text(),
    reason="needs a compiler and AVX-512, to compare both widths",
)
def test_vectors_of_both_widths_compute_the_same_bits(tmp_path: Path) -> None:
    """So an episode does not depend on whether the CPU has AVX-512."""
    code = """
import sys, torch
from accel import QUANTIZERS
from accel import UniformConfig
from accel import accelerated
from accel.kernels.native import library
from tests.accel.test_fused import POLICIES, random_plan
from tests.helpers.stock import OBS, TO
torch.set_num_threads(1)
found = [torch.tensor(library().panel_width())]
for (variant, i), policy in sorted(POLICIES.items()):
    for seed in range(4):
        obs = torch.randn((3, TO, OBS), generator=torch.Generator().manual_seed(seed))
        noise = [torch.Generator().manual_seed(j) for j in range(3)]
        with accelerated(policy, random_plan(policy, seed, 0.6, 3, seed > 2)) as fast:
            found.append(fast.act(obs, noise))
torch.save(found, sys.argv[1])
"""
    import os
    import sys

    results = []
    for compiler in ("cc", "cc -mno-avx512f"):
        out = tmp_path / f"{len(results)}.pt"
        environment = {**os.environ, "CC": compiler, "OMP_WAIT_POLICY": "passive"}
        subprocess.run(
            [sys.executable, "-c", code, str(out)], check=True, env=environment, cwd=PROJECT
        )
        results.append(torch.load(out))
    wide, narrow = results
    assert (wide[0], narrow[0]) == (32, 16)
    assert all(torch.equal(a, b) for a, b in zip(wide[1:], narrow[1:], strict=True))


def test_a_checkpoint_that_starts_late_says_so_when_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = POLICIES["causal", 0]
    train = policy.config.sampler.num_train_timesteps
    late = policy.with_sampler("checkpoint", train // 2 + 1)
    save_policy(late, tmp_path / "late")
    with caplog.at_level("WARNING"):
        load_policy(tmp_path / "late")
    assert f"starts at timestep {train // 2} of {train}" in caplog.text
    caplog.clear()
    save_policy(policy.with_sampler("ddpm", 3), tmp_path / "chosen")
    with caplog.at_level("WARNING"):
        again = load_policy(tmp_path / "chosen")
    assert "starts at timestep" not in caplog.text
    assert again.config.sampler.spacing == "trailing"
    assert again.fingerprint() != policy.fingerprint()


def same(one: SamplerConfig, other: SamplerConfig) -> bool:
    return one.settings() == other.settings()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"steps": 7, "spacing": "even"}, {"steps": 7, "spacing": "linspace"}),
        ({"steps": 7, "spacing": "quadratic"}, {"steps": 7, "spacing": "power", "power": 2}),
        ({"steps": 5, "spacing": "trailing"}, {"timesteps": [99, 79, 59, 39, 19]}),
        ({"steps": 1, "spacing": "trailing"}, {"steps": 1, "spacing": "even"}),
        ({"steps": np.int64(5)}, {"steps": 5}),
        ({"timesteps": np.array([99, 50, 0])}, {"timesteps": (99, 50, 0)}),
    ],
)
@pytest.mark.parametrize("kind", ["ddpm", "ddim", "dpmpp"])
def test_two_ways_to_say_a_sampler_are_one(
    kind: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = (choose_sampler(SamplerConfig(), kind, **asked) for asked in (one, other))
    assert same(first, second)


def test_another_variance_is_another_sampler_where_it_adds_other_noise() -> None:
    base = SamplerConfig()
    large = choose_sampler(base, "ddpm", variance_type="fixed_large")
    assert large == replace(base, variance_type="fixed_large")  # diffusers' own, as tested above
    five = choose_sampler(base, "ddpm", 5, variance_type="fixed_large")
    assert sampler_table(five).sigma[0] > sampler_table(choose_sampler(base, "ddpm", 5)).sigma[0]
    assert not same(five, choose_sampler(base, "ddpm", 5))
    for kind in ("fixed_small", "fixed_small_log"):
        assert choose_sampler(base, "ddpm", variance_type=kind) == base
    assert choose_sampler(base, "ddpm", 1, variance_type="fixed_large") == choose_sampler(
        base, "ddpm", 1
    )
    assert choose_sampler(large, variance_type="fixed_small_log") == base


def test_numbers_of_any_type_are_one_setting() -> None:
    base = SamplerConfig()
    for value in (1, 1.0, np.float32(1)):
        assert same(
            choose_sampler(base, "ddim", 5, eta=value), choose_sampler(base, "ddim", 5, eta=1)
        )
    assert same(choose_sampler(base, "ddim", 5, eta=0), choose_sampler(base, "ddim", 5))
    ours = choose_sampler(base, "ddim", 5, eta=1, spacing="leading")
    assert same(ours, choose_sampler(base, "ddim", 5, eta=1, spacing="checkpoint"))
    once = choose_sampler(base, "dpmpp", 3, order=3)
    assert same(once, choose_sampler(base, "dpmpp", 3, order=2))  # three steps have no third order


@pytest.mark.parametrize(
    "asked",
    [
        {"steps": 5.5},
        {"steps": 5.0},
        {"steps": True},
        {"steps": "5"},
        {"kind": "dpmpp", "steps": 5, "stochastic": "false"},
        {"kind": "dpmpp", "steps": 5, "order": True},
        {"kind": "ddim", "steps": 5, "eta": True},
        {"kind": "ddim", "steps": 5, "eta": float("nan")},
        {"timesteps": [9.5, 0]},
        {"kind": "euler"},
    ],
)
def test_what_is_no_number_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sampler"):
        choose_sampler(SamplerConfig(), **{"kind": "ddpm", **asked})


@pytest.mark.parametrize("n", [29, 31, 58, 62, 97])
def test_a_list_that_the_library_gets_wrong_is_refused(n: int) -> None:
    """Its floating-point steps make one too many, at timestep -1."""
    base = SamplerConfig(timestep_spacing="trailing")
    with pytest.raises(ValueError, match="choose another number of steps"):
        base.with_steps(steps=n)
    assert len(timesteps(choose_sampler(base, "ddpm", n))) == n


def test_settings_of_a_chosen_base_do_not_leak() -> None:
    base = choose_sampler(SamplerConfig(), "dpmpp", 5, order=3, stochastic=True)
    assert same(choose_sampler(base, "dpmpp", 4), choose_sampler(SamplerConfig(), "dpmpp", 4))
    assert choose_sampler(base, "dpmpp", 1).order == 1
    assert choose_sampler(base) == base
    assert choose_sampler(base, steps=2).order == 1  # the last of two steps is of first order
    curved = choose_sampler(SamplerConfig(), "ddpm", 5, spacing="power", power=2.5)
    assert choose_sampler(curved) == curved
    assert choose_sampler(curved, "ddpm", 10, spacing="power").power == 3
    assert same(
        choose_sampler(curved, "ddpm", 4, spacing="trailing"),
        choose_sampler(SamplerConfig(), "ddpm", 4, spacing="trailing"),
    )


@pytest.mark.parametrize("listing", ["trailing", "linspace"])
def test_ddim_chosen_over_another_checkpoint_aims_right(listing: str) -> None:
    base = SamplerConfig(steps=16, timestep_spacing=listing)
    chosen = choose_sampler(base, "ddim")
    assert timesteps(chosen).tolist() == timesteps(base).tolist()
    assert chosen.is_chosen
    assert sampler_warnings(chosen) == []
    own = replace(base, kind="ddim")
    assert choose_sampler(own, "ddim") == own  # the checkpoint's own keeps its library's aim


@pytest.mark.parametrize("n", [1, 5, 10, 19, 100])
def test_the_noisiest_timestep_is_never_late(n: int) -> None:
    assert sampler_warnings(SamplerConfig(steps=n, num_train_timesteps=n)) == []
