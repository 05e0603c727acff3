"""Plans, engines and the context manager, on small random policies of every variant."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel import CachePlan, NoCacheConfig, PlanError, UniformConfig, accelerated, resolve, sites_of
from accel.caches.uniform import update_steps
from accel.families.transformer import memory_flops, site_flops
from accel.plans.flops import query_flops
from policies import from_reference
from tests.helpers.stock import ACT, OBS, TO, VARIANTS, live_policy, small_policy


def inputs(n: int = 2) -> tuple[torch.Tensor, list[torch.Generator]]:
    obs = torch.randn((n, TO, OBS), generator=torch.Generator().manual_seed(3))
    return obs, [torch.Generator().manual_seed(i) for i in range(n)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_plan_that_computes_everything_is_bit_equal_to_the_plain_policy(variant: str) -> None:
    policy = small_policy(variant)
    plain = policy.act(*inputs())
    for cache in (None, NoCacheConfig(), UniformConfig(steps=policy.n_inference_steps)):
        with accelerated(policy, cache=cache, engine="reference") as fast:
            assert torch.equal(fast.act(*inputs()), plain)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reuse_adds_the_branch_of_the_last_update_step(variant: str) -> None:
    """The reference engine against a loop that recomputes what a cell must hold."""
    policy = small_policy(variant)
    mask = np.random.default_rng(0).random((10, len(sites_of(policy)))) < 0.5
    mask[0] = True
    plan = CachePlan(sites_of(policy), mask, policy.fingerprint(), "random")
    seen: dict[int, torch.Tensor] = {}

    def branch(step: int, site: int, compute: Any) -> torch.Tensor:
        if mask[step, site]:
            seen[site] = compute().clone()
        return seen[site]

    expected = policy.act(*inputs(), branch)
    with accelerated(policy, cache=plan, engine="reference") as fast:
        assert torch.equal(fast.act(*inputs()), expected)
        stats = fast.stats()
    assert not torch.equal(expected, policy.act(*inputs()))
    assert np.array_equal(stats["computed"], mask.astype(int))
    assert np.array_equal(stats["hits"], 1 - mask.astype(int))
    assert stats["cache_bytes"] == sum(v.nbytes for v in seen.values())
    assert stats["plan"] == plan.digest()


@pytest.mark.parametrize("variant", ["causal", "condition encoder", "encoder-only"])
def test_uniform_equals_reuse_inside_stock_layers(variant: str) -> None:
    """An independent oracle: torch's own layers, their branch methods replaced."""
    live = live_policy(variant)
    policy = from_reference(live)
    steps = update_steps(10, 4, 2)
    calls = {"n": -1}
    live.model.register_forward_pre_hook(lambda *_: calls.update(n=calls["n"] + 1))
    stack = live.model.encoder if live.model.encoder_only else live.model.decoder
    for layer in stack.layers:
        for name in ("_sa_block", "_mha_block", "_ff_block"):
            if hasattr(layer, name):
                setattr(layer, name, remembering(getattr(layer, name), calls, steps))
    obs, _ = inputs()
    torch.backends.mha.set_fastpath_enabled(False)
    expected = live.trajectory(obs, torch.Generator().manual_seed(7))
    torch.backends.mha.set_fastpath_enabled(True)
    expected = live.normalizer.unnormalize("action", expected[..., :ACT])[:, TO - 1 : TO + 3]
    with accelerated(policy, cache=UniformConfig(steps=4), engine="reference") as fast:
        actions = fast.act(obs, torch.Generator().manual_seed(7))
    torch.testing.assert_close(actions, expected, atol=1e-4, rtol=0)


def remembering(compute: Any, calls: dict[str, int], steps: list[int]) -> Any:
    last: list[torch.Tensor] = []

    def branch(*args: Any, **kwargs: Any) -> torch.Tensor:
        if calls["n"] in steps:
            last[:] = [compute(*args, **kwargs)]
        return last[0]

    return branch


def test_the_policy_stays_plain_inside_and_after_the_context_and_after_an_exception() -> None:
    policy = small_policy()
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    plain = policy.act(*inputs())
    with contextlib.suppress(ZeroDivisionError):
        with accelerated(policy, cache=UniformConfig(steps=2)) as fast:
            fast.act(*inputs())
            assert torch.equal(policy.act(*inputs()), plain)
            raise ZeroDivisionError
    assert torch.equal(policy.act(*inputs()), plain)
    assert all(torch.equal(v, before[k]) for k, v in policy.state_dict().items())
    assert "forward" not in vars(policy.model)
    with pytest.raises(RuntimeError, match="context of this accelerated policy has ended"):
        fast.act(*inputs())


def test_batch_sizes_may_change_between_queries() -> None:
    policy = small_policy()
    with accelerated(policy, cache=UniformConfig(steps=3)) as fast:
        first = fast.act(*inputs(2))
        assert fast.act(*inputs(3)).shape == (3, 4, ACT)
        assert torch.equal(fast.act(*inputs(2)), first)


@dataclass
class UnknownConfig:
    name: str = "magic"


def test_foreign_and_unknown_things_are_refused() -> None:
    policy, other = small_policy(), small_policy(seed=1)
    plan = resolve(policy, UniformConfig(steps=3))
    ten = policy.config.sampler
    for foreign, words in (
        (other, "another checkpoint or sampler"),
        (policy.with_sampler(ten.with_steps("ddim", 10)), "another checkpoint or sampler"),
        (policy.with_sampler(ten.with_steps(steps=5)), "plan has 10 steps, the policy's sampler 5"),
        (small_policy("encoder-only"), "another network"),
    ):
        with pytest.raises(PlanError, match=words), accelerated(foreign, cache=plan):
            pass
    with pytest.raises(TypeError, match="cache must be a config of none, uniform"):
        resolve(policy, UnknownConfig())
    with pytest.raises(ValueError, match="engine must be one of fused, reference, got 'warp'"):
        with accelerated(policy, engine="warp"):
            pass
    with accelerated(policy) as fast, pytest.raises(TypeError, match="accelerated already"):
        with accelerated(fast):  # type: ignore[arg-type]
            pass
    with pytest.raises(RuntimeError, match="training mode"), accelerated(policy.train()):
        pass


def test_a_plan_must_compute_before_it_reuses() -> None:
    policy = small_policy()
    mask = np.ones((10, 6), dtype=bool)
    mask[0, 4] = False
    with pytest.raises(PlanError, match=r"reuses decoder.layers.1.ca in step 0"):
        CachePlan(sites_of(policy), mask, policy.fingerprint(), "broken")


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_update_steps_meet_the_budget_at_both_ends(data: st.DataObject) -> None:
    n_steps = data.draw(st.integers(1, 120))
    budget = data.draw(st.integers(1, n_steps))
    exponent = data.draw(st.floats(1, 10))
    steps = update_steps(n_steps, budget, exponent)
    assert len(steps) == budget
    assert steps[0] == 0
    assert all(b > a for a, b in itertools.pairwise(steps))
    assert budget == 1 or steps[-1] == n_steps - 1


def test_known_schedules() -> None:
    assert update_steps(100, 10, 1) == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert update_steps(100, 10, 2) == [0, 21, 39, 55, 68, 79, 88, 94, 98, 99]
    assert update_steps(100, 1, 2) == [0]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"steps": 0}, "cache.steps must be at least 1, got 0"),
        ({"spacing": "cubic"}, "cache.spacing must be one of even, quadratic, power, got 'cubic'"),
        ({"power": 0.5}, "cache.power must be from 1 to 10, got 0.5"),
    ],
)
def test_uniform_settings_are_refused_by_name(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="cache") as error:
        UniformConfig(**config)
    assert words in str(error.value)


def test_a_budget_above_the_sampler_computes_everything_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert resolve(small_policy(), UniformConfig(steps=99)).mask.all()
    assert "the sampler has 10 steps" in caplog.text


@pytest.mark.parametrize(
    ("n", "m", "dim", "gflops"), [(10, 3, 256, 15.730278), (16, 5, 768, 226.374)]
)
def test_published_flops(n: int, m: int, dim: int, gflops: float) -> None:
    layer = sum(site_flops(kind, n, m, dim) for kind in ("sa", "ca", "ff"))
    assert 100 * (8 * layer + 16 * m * dim**2) / 1e9 == pytest.approx(gflops, rel=3e-6)


def test_flops_count_the_cells_that_ran() -> None:
    policy = small_policy()
    everything = query_flops(policy, np.ones((10, 6)))
    nothing = query_flops(policy, np.zeros((10, 6)))
    assert nothing >= 10 * memory_flops(policy)
    with accelerated(policy, cache=UniformConfig(steps=3), engine="reference") as fast:
        assert fast.stats()["flops"] == 0
        fast.act(*inputs())
        fast.act(*inputs(3))
        stats = fast.stats()
    assert stats["n_queries"] == 2
    assert stats["flops"] - nothing == pytest.approx(0.3 * (everything - nothing))
