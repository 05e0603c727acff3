"""DeepCache on UNet policies: which features are reused, what that costs, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from accel import (
    BacConfig,
    CachePlan,
    DeepCacheConfig,
    FirstBlockConfig,
    HashAbConfig,
    IntervalConfig,
    NoCacheConfig,
    PlanError,
    TaylorConfig,
    TeaCacheConfig,
    UniformConfig,
    accelerated,
    adapt_plan,
    branch_errors,
    calibrate,
    query_flops,
    resolve,
    shared_plan,
    sites_of,
    summarize,
)
from accel.caches.uniform import update_steps
from policies import DiffusionPolicy, from_reference
from runners.cli import run
from runners.jobs.settings import UserError
from runners.show.plan_view import CELLS, cells
from runners.train.initial import initial_policy
from tests.helpers.stock import live_policy
from tests.helpers.stock_unet import (
    OBS,
    TO,
    DiffusionUnetLowdimPolicy,
    cfg_of,
    live_unet,
    unet_config,
    write_ckpt,
)

N = 10


def inputs(n: int = 2) -> tuple[torch.Tensor, list[torch.Generator]]:
    obs = torch.randn((n, TO, OBS), generator=torch.Generator().manual_seed(3))
    return obs, [torch.Generator().manual_seed(i) for i in range(n)]


def small(variant: str = "global, scaled") -> DiffusionPolicy:
    return from_reference(live_unet(variant, steps=N))


def nested(policy: DiffusionPolicy, depths: list[int]) -> CachePlan:
    """A plan from the level that is reused in each step; 0 computes everything."""
    n = len(sites_of(policy))
    mask = np.array([[not d or u < d - 1 for u in range(n)] for d in depths])
    return CachePlan(sites_of(policy), mask, policy.fingerprint(), "by hand")


def test_the_sites_are_the_levels_with_a_skip() -> None:
    sites = sites_of(small())
    assert [(s.name, s.op, s.kind) for s in sites] == [
        ("unet.deep.1", "deep", "output"),
        ("unet.deep.2", "deep", "output"),
    ]
    assert len(sites_of(small("two levels, odd below"))) == 1


@pytest.mark.parametrize("variant", ["global", "local", "in-painting", "two levels, odd below"])
def test_a_plan_that_computes_everything_is_bit_equal(variant: str) -> None:
    policy = small(variant)
    plain = policy.act(*inputs())
    for cache in (None, NoCacheConfig(), UniformConfig(steps=N)):
        with accelerated(policy, cache, engine="reference") as fast:
            assert torch.equal(fast.act(*inputs()), plain)


DEPTHS = [0, 2, 1, 1, 0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize("variant", ["global, scaled", "local", "in-painting"])
def test_a_hit_is_the_stale_deep_feature_beside_fresh_skips(variant: str) -> None:
    """Against the network by functions, given the features of the steps that computed them."""
    live = live_unet(variant, steps=N)
    policy = from_reference(live)
    obs, _ = inputs()
    expected = live.trajectory(obs, torch.Generator().manual_seed(5), DEPTHS)
    expected = live.normalizer.unnormalize("action", expected[..., : live.action_dim])
    with accelerated(policy, nested(policy, DEPTHS)) as fast:
        found = fast.act(obs, torch.Generator().manual_seed(5))
        stats = fast.stats()
    torch.testing.assert_close(found, expected[:, TO - 1 : TO + 3], atol=2e-4, rtol=0)
    assert not torch.allclose(found, policy.act(obs, torch.Generator().manual_seed(5)), atol=0.01)
    assert np.sum(stats["computed"], axis=0).tolist() == [6, 3]
    # (B, 24, T / 2) and (B, 32, T / 4) float32 of the last steps
    assert stats["cache_bytes"] == 4 * 2 * (24 * 4 + 32 * 2)


def test_what_is_inside_of_a_reused_level_does_not_run() -> None:
    policy, ran = small(), Counter[str]()
    for name in ("down_modules.1.0", "down_modules.2.0", "mid_modules.0", "up_modules.0.0"):
        module = policy.model.get_submodule(name)
        module.register_forward_pre_hook(lambda *_, name=name: ran.update([name]))
    with accelerated(policy, nested(policy, DEPTHS), engine="reference") as fast:
        fast.act(*inputs())
    assert ran == {
        "down_modules.1.0": 10,  # its features are the skip beside the reused ones
        "down_modules.2.0": 6,  # wherever level 1 is computed
        "up_modules.0.0": 6,
        "mid_modules.0": 3,
    }


def test_hits_may_forecast() -> None:
    """Linear extrapolation from the two last deep features, by an independent loop."""
    policy = small("two levels, odd below")
    mask = np.ones((N, 1), dtype=bool)
    mask[[2, 5, 6]] = False
    alpha = np.zeros((N, 1, 2))
    alpha[2], alpha[5], alpha[6] = (2, -1), (2, -1), (3, -2)
    plan = CachePlan(sites_of(policy), mask, policy.fingerprint(), "linear", alpha)
    stored: list[torch.Tensor] = []

    def branch(step: int, site: int, compute: Any) -> torch.Tensor:
        if step in (2, 5, 6):
            return alpha[step, 0, 0] * stored[-1] + alpha[step, 0, 1] * stored[-2]
        stored.append(compute())
        return stored[-1]

    expected = policy.act(*inputs(), branch)
    with accelerated(policy, plan, engine="reference") as fast:
        assert torch.equal(fast.act(*inputs()), expected)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    policy = small("global, scaled")
    obs, _ = inputs(4)
    with accelerated(policy, nested(policy, DEPTHS)) as fast:

        def act(rows: list[int]) -> torch.Tensor:
            return fast.act(obs[rows], [torch.Generator().manual_seed(row) for row in rows])

        together = act([0, 1, 2, 3])
        assert torch.equal(act([3, 1, 0, 2]), together[[3, 1, 0, 2]])
        torch.testing.assert_close(act([2]), together[[2]], atol=1e-4, rtol=0)


def test_uniform_reuses_all_below_level_1() -> None:
    policy = small()
    plan = resolve(policy, UniformConfig(steps=4))
    expected = np.zeros((N, 2), dtype=bool)
    expected[update_steps(N, 4, 2.0)] = True
    assert np.array_equal(plan.mask, expected)
    assert [CELLS[c] for c in cells(plan)[1]] == ["reused", "not reached"]
    level_2 = shared_plan(policy, [0, 5], "deepcache", always=1)
    assert level_2.mask[:, 0].all()
    assert np.flatnonzero(level_2.mask[:, 1]).tolist() == [0, 5]
    assert [CELLS[c] for c in cells(level_2)[1]] == ["computed", "reused"]


@pytest.mark.parametrize(
    "variant",
    ["global, scaled", "local", "in-painting", "action steps only", "two levels, odd below"],
)
def test_flops_are_those_of_the_operations_that_ran(variant: str) -> None:
    """Torch's own counter. It counts the whole of what ours count: all but norms."""
    policy = small(variant)
    everything = np.ones((N, len(sites_of(policy))), dtype=bool)
    for level in range(len(sites_of(policy)) + 1):
        plan = nested(policy, [0] + [level] * (N - 1))
        asked = accelerated(policy, plan, engine="reference")
        with asked as fast, FlopCounterMode(display=False) as counter:
            fast.act(inputs(1)[0], inputs(1)[1])
            assert fast.stats()["flops"] == counter.get_total_flops()
        share = counter.get_total_flops() / query_flops(policy, everything)
        assert summarize(plan, policy).flops_share == pytest.approx(share)
        assert (share < 1) == (level > 0)


def test_what_a_hit_saves_of_the_published_network() -> None:
    """Kernels of 5, levels of 256, 512, 1024 channels, 16 steps: multiply-adds by hand."""
    config = unet_config(
        horizon=16,
        down_dims=[256, 512, 1024],
        kernel_size=5,
        diffusion_step_embed_dim=256,
        cond_predict_scale=True,
    )

    class Sized:  # what FLOPs are counted from
        sizes, n_tokens = config, 16

    seen = 256 + TO * OBS
    middle = 2 * (4 * 2 * 5 * 1024**2 + seen * 2048)
    below_1 = (
        4 * 512**2 * 3  # down to 4 steps
        + 4 * (5 * (512 + 1024) * 1024 + 512 * 1024 + 5 * 2 * 1024**2)
        + 2 * seen * 2048
        + 4 * (5 * (2048 + 512) * 512 + 2048 * 512 + 5 * 2 * 512**2)
        + 2 * seen * 1024
        + 4 * 512**2 * 4  # up to 8
    )
    row = np.ones((1, 2))
    policy: Any = Sized()
    computed = query_flops(policy, row)
    assert computed - query_flops(policy, row * [1, 0]) == 2 * middle
    assert computed - query_flops(policy, row * 0) == 2 * (middle + below_1)
    assert query_flops(policy, row * 0) / computed == pytest.approx(0.28, abs=0.02)


def test_deepcache_and_taylor_reuse_at_a_level() -> None:
    policy = small()
    plan = resolve(policy, DeepCacheConfig(compute_end=N, compute_interval=4, level=2))
    assert plan.mask[:, 0].all()
    assert np.flatnonzero(plan.mask[:, 1]).tolist() == [0, 1, 5, 9]
    default = resolve(policy, DeepCacheConfig(compute_interval=4))
    assert np.array_equal(default.mask.all(axis=1), default.mask[:, 0])
    forecast = resolve(policy, TaylorConfig(interval=3))
    assert np.flatnonzero(forecast.mask[:, 0]).tolist() == [0, 1, 2, 5, 8, 9]
    assert forecast.forecast(3, 0) == ((2, 2.0), (1, -1.0))
    for config, words in (
        (DeepCacheConfig(level=3), "cache.level must be from 1 to 2, got 3"),
        (DeepCacheConfig(always=[0]), r"cache.always is of transformers.*: \[0\]"),
        (IntervalConfig(), "cache=interval needs a transformer"),
        (TeaCacheConfig(), "cache=teacache needs a transformer"),
        (FirstBlockConfig(), "cache=first_block needs a transformer"),
    ):
        with pytest.raises(PlanError, match=words):
            resolve(policy, config)
    transformer = from_reference(live_policy())
    with pytest.raises(PlanError, match=r"cache\.level is of UNets.*: 1"):
        resolve(transformer, DeepCacheConfig(level=1))


def test_what_observes_branches_is_refused_by_name() -> None:
    policy = small()
    for config in (BacConfig(), HashAbConfig()):
        with pytest.raises(PlanError, match=f"cache={config.name} needs a transformer"):
            resolve(policy, config)
    obs, noise = inputs(8)
    with pytest.raises(PlanError, match="a calibration needs a transformer"):
        calibrate(policy, obs, noise)
    with pytest.raises(PlanError, match="branch_errors needs a transformer"):
        branch_errors(policy, resolve(policy, UniformConfig(steps=3)), obs, noise)


def test_plans_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    policy = small()
    plan = nested(policy, DEPTHS)
    mask = plan.mask.copy()
    mask[2] = (False, True)
    words = r"computes unet\.deep\.2 in step 2, inside of unet\.deep\.1, which it reuses there"
    with pytest.raises(PlanError, match=words):
        replace(plan, mask=mask)
    with pytest.raises(PlanError, match=r"reuses unet\.deep\.2 in step 0"):
        nested(policy, [2, *DEPTHS[1:]])
    with pytest.raises(PlanError, match=r"plan\.bias is of branches, got unet\.deep\.1"):
        replace(plan, bias=np.zeros((N, 2, 4, 16), dtype=np.float32))
    plan.save(tmp_path / "plan.json")
    loaded = CachePlan.load(tmp_path / "plan.json")
    assert loaded.digest() == plan.digest()
    loaded.check(policy)
    with pytest.raises(PlanError, match="another network"):
        loaded.check(small("two levels, odd below"))
    content = json.loads((tmp_path / "plan.json").read_text())
    content["sites"][1]["kind"] = "branch"
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match=r"kind must be output, got 'branch' for unet\.deep\.2"):
        CachePlan.load(tmp_path / "plan.json")


def test_a_plan_moves_to_another_sampler() -> None:
    policy = small()
    plan = resolve(policy, shared_plan(policy, [0, 4, 9], "deepcache", always=1))
    shorter = policy.with_sampler(policy.config.sampler.with_steps("ddim", 5))
    moved = adapt_plan(plan, shorter, remap=True)
    assert moved.mask[:, 0].all()
    assert 1 <= moved.mask[:, 1].sum() <= 3


def test_a_training_does_not_go_on_from_a_unet(tmp_path: Path) -> None:
    file = write_ckpt(tmp_path / "a.ckpt", live_unet())
    with pytest.raises(UserError, match="is a UNet of widths 16, 24, 32, this training a transf"):
        initial_policy(str(file), from_reference(live_policy()).config)


@pytest.fixture
def lift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A random UNet for Lift, as a file of the reference implementation, far from run.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    dims = (19, 7)
    config = unet_config(dims, horizon=16, down_dims=[16, 24, 32], oa_step_convention=True)
    live = DiffusionUnetLowdimPolicy(config, 8, dims=dims)
    return f"task.checkpoint={write_ckpt(tmp_path / 'a.ckpt', live, cfg_of(live, 'lift_lowdim'))}"


def test_a_run_on_lift(lift: str, capfd: pytest.CaptureFixture[str]) -> None:
    small_run = ["n_episodes=1", "n_envs=1", "task.max_steps=8", "videos=0", "latency.repeats=1"]
    cache = ["cache=deepcache", "cache.level=2", "cache.compute_end=5", "cache.compute_interval=3"]
    common = ["threads=1", "logger=none", *cache, lift]
    assert run(["task=lift", *small_run, "latency.warmup=0", *common]) == 0
    (file,) = Path("multirun/main").glob("lift_deepcache*/result.json")
    result = json.loads(file.read_text())
    assert result["n_errors"] == 0
    assert (
        np.array(result["stats"]["computed"]).sum(axis=0) / result["stats"]["n_queries"]
    ).tolist() == [5, 3]
    assert result["flops"]["share"] < 1
    said = capfd.readouterr()
    assert "UNet of widths 16, 24, 32" in said.out + said.err


def test_a_picture_of_its_plan(lift: str, capfd: pytest.CaptureFixture[str]) -> None:
    show = ["runner=show", "task=lift", "logger=none", lift]
    assert run([*show, "cache=uniform", "cache.steps=2", "runner.compare=none"]) == 0
    (page,) = Path("multirun/main").glob("show_*/plan.html")
    text = page.read_text()
    assert "everything below one level of the UNet" in text
    assert "not reached" in text
    assert re.search(r"as run by engine=fused +[\d.]+ G \(\d", capfd.readouterr().out)
    for mistake in (["cache=bac"], ["cache=hash_ab"]):
        assert run([*show, *mistake, "cache.steps=2"]) == 2
        error = capfd.readouterr().err
        assert f"{mistake[0]} needs a transformer" in error
        assert len(error.strip().splitlines()) == 1


MISTAKES = {
    ("cache=bac", "cache.steps=2"): "cache=bac needs a transformer",
    ("cache=hash_ab", "cache.steps=2"): "cache=hash_ab needs a transformer",
    ("cache=interval",): "cache=interval needs a transformer",
    ("cache=teacache",): "cache=teacache needs a transformer",
    ("cache=deepcache", "cache.level=3"): "cache.level must be from 1 to 2, got 3",
    ("cache=deepcache", "cache.always=[0]"): "cache.always is of transformers",
    ("runner=search",): "runner=search needs a transformer",
    ("runner=calibrate",): "runner=calibrate needs a transformer",
    ("engine.backend=torch",): "engine.backend=torch with engine.precision=exact cannot run here",
    ("cache=uniform", "cache.steps=6"): "cache.steps must be at most 5",
}


def test_mistakes_on_the_command_line(lift: str, capfd: pytest.CaptureFixture[str]) -> None:
    for mistake, words in MISTAKES.items():
        assert run(["task=lift", "logger=none", lift, *mistake]) == 2
        error = capfd.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1
    assert not Path("multirun").exists()
