"""Plans from files: as they are, of another checkpoint or sampler, and on the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from accel import (
    CachePlan,
    HashAbConfig,
    PlanError,
    SavedPlanConfig,
    UniformConfig,
    accelerated,
    adapt_plan,
    resolve,
    sites_of,
)
from policies import DiffusionPolicy, from_reference, load_policy
from runners.cli import CONF, run
from runners.registry import prepare
from tests.helpers.features import calibration_of, features_of
from tests.helpers.places import FIXTURES
from tests.helpers.stock import OBS, TO, live_policy

FIXTURE = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"
COMMAND = [f"task.checkpoint={FIXTURE}", "threads=1", "logger=none", "cache=plan"]
EVALUATE = ["n_episodes=1", "n_envs=1", "videos=0", "latency.repeats=0", "task.max_steps=8"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])


def small_policy(seed: int = 0, **sampler: Any) -> DiffusionPolicy:
    policy = from_reference(live_policy(seed=seed))
    return policy.with_sampler(policy.config.sampler.with_steps(**sampler)) if sampler else policy


def random_plan(policy: DiffusionPolicy) -> CachePlan:
    mask = np.random.default_rng(0).random((policy.n_inference_steps, len(sites_of(policy)))) < 0.4
    mask[0] = True
    plan = CachePlan(sites_of(policy), mask, policy.fingerprint(), "random")
    return resolve(policy, plan)


def old_file(path: str) -> None:
    """As an older version wrote it."""
    content = json.loads(Path(path).read_text())
    content.pop("sampler")
    Path(path).write_text(json.dumps(content))


def test_a_saved_plan_is_the_plan() -> None:
    policy = small_policy()
    plan = random_plan(policy)
    plan.save("plan.json")
    loaded = CachePlan.load("plan.json")
    assert loaded.sampler == plan.sampler
    assert loaded.sampler is not None
    assert np.allclose(loaded.sampler.alpha_bar, policy.alpha_bar)
    assert loaded.sampler.settings == policy.sampler_settings
    for path in ("plan.json", "."):
        found = resolve(policy, SavedPlanConfig(path=path, allow_foreign_schedule=True, remap=True))
        assert found.digest() == plan.digest()
        assert found.adapted == ()
    obs, actions = torch.zeros(1, TO, OBS), []
    for cache in (plan, SavedPlanConfig(path="plan.json")):
        with accelerated(policy, cache) as fast:
            actions.append(fast.act(obs, torch.Generator().manual_seed(1)))
    assert torch.equal(*actions)
    old_file("plan.json")
    old = CachePlan.load("plan.json")
    assert old.sampler is None
    assert old.digest() == plan.digest()
    assert resolve(policy, SavedPlanConfig(path="plan.json")).sampler == plan.sampler


def test_alpha_bar_is_the_one_of_each_step() -> None:
    """x_t = sqrt(alpha-bar) x_0 + ...: in_x is 1 / sqrt(alpha-bar) for predicted noise."""
    for policy in (small_policy(), small_policy(kind="ddim", steps=4)):
        assert np.allclose(policy.alpha_bar, policy.table.in_x**-2.0, rtol=1e-6)
        assert (np.diff(policy.alpha_bar) > 0).all()


def test_a_schedule_of_another_checkpoint_is_used_only_where_allowed() -> None:
    policy, other = small_policy(), small_policy(seed=1)
    plan = random_plan(other)
    plan.save("plan.json")
    with pytest.raises(PlanError, match=r"another checkpoint: cache.allow_foreign_schedule=true"):
        resolve(policy, SavedPlanConfig(path="plan.json", remap=True))
    found = resolve(policy, SavedPlanConfig(path="plan.json", allow_foreign_schedule=True))
    assert np.array_equal(found.mask, plan.mask)
    assert found.policy == policy.fingerprint()
    assert found.digest() != plan.digest()
    assert found.adapted == (f"schedule of another checkpoint (plan {plan.digest()})",)
    with accelerated(policy, found) as fast:
        assert fast.act(torch.zeros(1, TO, OBS), torch.Generator()).isfinite().all()
    found.save("again.json")
    assert resolve(policy, SavedPlanConfig(path="again.json")).adapted == found.adapted
    biased = replace(plan, bias=np.ones((*plan.mask.shape, 5, 16), dtype=np.float32))
    with pytest.raises(PlanError, match="made of the other checkpoint's features"):
        adapt_plan(biased, policy, allow_foreign_schedule=True)


def test_update_steps_move_to_the_nearest_alpha_bar() -> None:
    """Ten steps at timesteps 18, 16, .. 0 of 20, and four at 15, 10, 5, 0."""
    ten, four = small_policy(), small_policy(kind="ddim", steps=4)
    sites = sites_of(ten)
    mask = np.zeros((10, len(sites)), dtype=bool)
    mask[0] = True
    mask[[1, 2, 9], 0] = True  # timesteps 16, 14 -> 15; 0 -> 0
    mask[[4, 5], 1] = True  # 10 -> 10, 8 -> 10
    mask[7, 2] = True  # 4 -> 5
    plan = resolve(ten, CachePlan(sites, mask, ten.fingerprint(), "hand"))
    found = adapt_plan(plan, four, remap=True)
    expected = np.zeros((4, len(sites)), dtype=bool)
    expected[0] = True
    expected[3, 0] = expected[2, 2] = True
    nearest = int(np.abs(four.alpha_bar - ten.alpha_bar[5]).argmin())
    expected[[1, nearest], 1] = True
    assert np.array_equal(found.mask, expected)
    assert found.adapted == (
        f"remapped from ddpm with 10 steps to ddim with 4 steps (plan {plan.digest()})",
    )
    with accelerated(four, found) as fast:
        fast.act(torch.zeros(1, TO, OBS), torch.Generator())
        assert fast.stats()["computed"] == expected.astype(int).tolist()
    late = replace(plan, mask=np.roll(mask, 1, axis=0) | (np.arange(10) == 0)[:, None])
    assert adapt_plan(late, four, remap=True).mask[0].all()


def test_remapping_there_and_back_keeps_a_coarse_schedule() -> None:
    ten, five = small_policy(), small_policy(steps=5)
    plan = random_plan(five)
    fine = adapt_plan(plan, ten, remap=True)
    assert fine.mask.sum() == plan.mask.sum() + 6  # step 0 sees more noise than any of five steps
    coarse = adapt_plan(fine, five, remap=True)
    assert np.array_equal(coarse.mask, plan.mask)
    assert len(coarse.adapted) == 2


def test_another_sampler_is_refused_and_forecasts_do_not_move() -> None:
    policy = small_policy()
    resolve(policy, UniformConfig(steps=3)).save("plan.json")
    for other, words in (
        (small_policy(kind="ddim"), "(ddpm with 10 steps, the policy has ddim with 10 steps)"),
        (small_policy(steps=5), "(ddpm with 10 steps, the policy has ddpm with 5 steps)"),
    ):
        with pytest.raises(PlanError, match="another sampler") as error:
            resolve(other, SavedPlanConfig(path="plan.json", allow_foreign_schedule=True))
        assert words in str(error.value)
        assert "cache.remap=true" in str(error.value)
    forecast = HashAbConfig(steps=4, drift=False)
    plan = resolve(policy, forecast, calibration_of(policy, features_of(policy, 8)))
    assert plan.alpha is not None
    with pytest.raises(PlanError, match=r"cache.remap=true: the plan forecasts, with coefficients"):
        adapt_plan(plan, small_policy(steps=5), remap=True)
    biased = replace(plan, alpha=None, bias=np.ones((10, 6, 5, 16), dtype=np.float32))
    with pytest.raises(PlanError, match=r"cache.remap=true: the plan forecasts"):
        adapt_plan(biased, small_policy(steps=5), remap=True)
    foreign = adapt_plan(plan, small_policy(seed=1), allow_foreign_schedule=True)
    assert np.array_equal(foreign.alpha, plan.alpha)


def test_both_at_once_need_both() -> None:
    plan, target = random_plan(small_policy(seed=1)), small_policy(steps=5)
    with pytest.raises(PlanError, match="another checkpoint"):
        adapt_plan(plan, target, remap=True)
    with pytest.raises(PlanError, match="another sampler"):
        adapt_plan(plan, target, allow_foreign_schedule=True)
    assert len(adapt_plan(plan, target, True, True).adapted) == 2


def test_other_sites_and_old_files_fit_nothing_else() -> None:
    policy = small_policy()
    plan = resolve(policy, UniformConfig(steps=3))
    encoder = from_reference(live_policy("encoder-only"))
    with pytest.raises(PlanError, match="another network: their sites differ"):
        adapt_plan(plan, encoder, True, True)
    plan.save("plan.json")
    old_file("plan.json")
    for other in (small_policy(seed=1), small_policy(steps=5)):
        with pytest.raises(PlanError, match="an older version wrote it, without its sampler"):
            resolve(other, SavedPlanConfig("plan", "plan.json", True, True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha_bar": [0.5] * 9}, "alpha_bar of 10 steps, got 9"),
        ({"alpha_bar": [0.5] * 9 + [2]}, "sampler.alpha_bar must be from 0 to 1"),
        ({"alpha_bar": [float("nan")] * 10}, "plan.json: .*(NaN|not finite|nan|alpha_bar)"),
        ({"alpha_bar": None}, "plan.json: "),
        ({"settings": 3}, "plan.json: "),
    ],
)
def test_a_broken_sampler_in_a_file_is_refused(change: dict[str, Any], words: str) -> None:
    resolve(small_policy(), UniformConfig(steps=3)).save("plan.json")
    content = json.loads(Path("plan.json").read_text())
    content["sampler"] |= change
    Path("plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match=words):
        CachePlan.load("plan.json")


@pytest.fixture(scope="module")
def fixture() -> DiffusionPolicy:
    return load_policy(FIXTURE)


def save_plans(policy: DiffusionPolicy) -> None:
    """Of the policy, and of another checkpoint like it."""
    resolve(policy, UniformConfig(steps=10)).save("own.json")
    other = load_policy(FIXTURE)
    with torch.no_grad():
        other.model.head.bias += 1
    resolve(other, UniformConfig(steps=20)).save("foreign.json")


def test_the_content_of_a_plan_is_the_identity_of_its_runs(fixture: DiffusionPolicy) -> None:
    save_plans(fixture)
    resolve(fixture, UniformConfig(steps=11)).save("more.json")
    found: dict[str, set[str]] = {"fingerprint": set(), "baseline_name": set()}
    for path, content in (("a.json", "own.json"), ("b.json", "own.json"), ("a.json", "more.json")):
        Path(path).write_bytes(Path(content).read_bytes())
        for runner in ("evaluate", "show"):
            with initialize_config_dir(str(CONF), version_base="1.3"):
                job = prepare(
                    compose("config", [*COMMAND, f"runner={runner}", f"cache.path={path}"])
                )
            for key in found:
                found[key].add(f"{runner} {getattr(job, key, None)}")
    assert len(found["fingerprint"]) == 2 * 2  # of contents, not of paths
    assert len(found["baseline_name"]) == 2


MISTAKES = {
    "": "cache.path must name a plan.json (of runner=show, or of CachePlan.save), got null",
    "cache.path=nowhere.json": "cache.path: no plan at nowhere.json; ",
    "cache.path=deep/down/plan.json": "holds foreign.json, own.json, wrong.json",
    "cache.path=wrong.json": "wrong.json: schema must be skipstep-plan/1",
    "cache.path=foreign.json": "cache.allow_foreign_schedule=true uses its schedule all the same",
    "cache.path=own.json sampler=ddim sampler.steps=16": "cache.remap=true moves its update steps",
    "cache.path=own.json task.checkpoint=checkpoints/kitchen": "their sites differ",
    "cache.path=own.json cache.remap=maybe": "cache.remap must be true or false, got 'maybe'",
    "cache.path=own.json cache.steps=3": "cache.steps: unknown key, allowed: name, path, allow_fo",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    mistake: str, fixture: DiffusionPolicy, capfd: pytest.CaptureFixture[str]
) -> None:
    save_plans(fixture)
    Path("wrong.json").write_text("{}")
    assert run([*COMMAND, *mistake.split()]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert MISTAKES[mistake] in line
    assert not Path("multirun").exists()


def results() -> list[dict[str, Any]]:
    paths = sorted(Path("multirun/main").glob("*/result.json"), key=lambda p: p.stat().st_mtime)
    return [json.loads(path.read_text()) for path in paths]


def test_a_run_records_what_was_done_to_its_plan(
    fixture: DiffusionPolicy, capfd: pytest.CaptureFixture[str]
) -> None:
    save_plans(fixture)
    allowed = ["cache.path=foreign.json", "cache.allow_foreign_schedule=true", "cache.remap=true"]
    assert run([*COMMAND, *EVALUATE, *allowed, "sampler=ddim", "sampler.steps=8"]) == 0
    (result,) = results()
    said = capfd.readouterr().out
    assert [words.partition(" (plan ")[0] for words in result["adapted"]] == [
        "schedule of another checkpoint",
        "remapped from ddpm with 100 steps to ddim with 8 steps, trailing",
    ]
    assert all(said.count(words) == 2 for words in result["adapted"])  # the log and the table
    assert result["flops"]["share"] < 1
