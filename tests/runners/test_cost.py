"""FLOPs and speed-ups of results, also of those that older versions wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from accel import action_error, flops_share, plain_flops, summarize
from accel.action_errors import squared_action_error
from accel.plans.rows import shared_plan
from policies import load_policy
from runners.formatting import conditions
from runners.studies.cost import Flops, latency_of, read_flops
from runners.studies.study import Study, read_study
from tests.helpers.fake_episodes import FIXTURE
from tests.helpers.study_folder import KITCHEN, SLOWER, change_result, copy_starter, time_it

PLAIN = 25363251200  # of the shipped Kitchen policy with its 100 steps


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of an older version, of the reference engine."""
    return copy_starter(tmp_path / "starter")


def flops(study: Study, name: str) -> Flops:
    run = next(run for run in study.runs if run.name == name)
    return read_flops(run, study.baseline(run))


def fused(folder: Path, query: int) -> None:
    """As if the fused engine had run it, which leaves out tokens."""
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("name: reference", "name: fused"))
    plain = json.loads((folder / "result.json").read_text())["flops"]["plain"]
    change_result(folder, flops={"query": query, "plain": plain, "share": query / plain})


def ddim(folder: Path) -> Path:
    """The plain arm with 16 other steps; its result says so in an older way."""
    copied = Path(shutil.copytree(folder / KITCHEN, folder / "kitchen_none_none_s0_dd1111dd"))
    config = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(
        config.replace("kind: ddpm\n  steps: 100", "kind: ddim\n  steps: 16")
    )
    plain = PLAIN * 16 // 100
    change_result(
        copied,
        flops={"query": plain, "plain": plain, "share": 1.0},
        baseline={"folder": KITCHEN},
    )
    return copied


def test_older_flops_of_the_reference_engine_are_of_the_plan(folder: Path) -> None:
    found = flops(read_study(folder), SLOWER)
    assert found.plain == PLAIN
    assert found.share == found.executed_share == pytest.approx(0.2174, abs=5e-5)


def test_older_flops_of_another_engine_are_unknown_unless_everything_ran(folder: Path) -> None:
    fused(folder / SLOWER, 3281293312)
    fused(folder / KITCHEN, 16315092992)
    study = read_study(folder)
    assert flops(study, SLOWER) == Flops(3281293312, PLAIN, None, 3281293312 / PLAIN)
    assert flops(study, KITCHEN) == Flops(16315092992, PLAIN, 1.0, 16315092992 / PLAIN)


def test_older_flops_of_another_sampler_are_a_share_of_the_checkpoints(folder: Path) -> None:
    copied = ddim(folder)
    assert flops(read_study(folder), copied.name).share == pytest.approx(0.16)
    fused(copied, 10**9)
    assert flops(read_study(folder), copied.name).share == pytest.approx(0.16)


def test_without_the_baseline_a_share_is_unknown(folder: Path) -> None:
    shutil.rmtree(folder / KITCHEN)
    found = flops(read_study(folder), SLOWER)
    assert (found.plain, found.share, found.executed_share) == (None, None, None)


def test_flops_as_they_are_written_now_are_taken_as_they_are(folder: Path) -> None:
    written = {"query": 3, "plain": 10, "share": 0.4, "executed_share": 0.3}
    change_result(folder / SLOWER, flops=written)
    shutil.rmtree(folder / KITCHEN)
    assert flops(read_study(folder), SLOWER) == Flops(3, 10, 0.4, 0.3)


def test_an_older_ratio_counts_where_the_sampler_is_the_checkpoints(folder: Path) -> None:
    for path in (folder / SLOWER, ddim(folder)):
        time_it(path, 250.0)
    study, rng = read_study(folder), np.random.default_rng(0)
    found = {r.name: latency_of(r, study.baseline(r), rng) for r in study.runs}
    own, other = found[SLOWER], found["kitchen_none_none_s0_dd1111dd"]
    assert own is not None
    assert other is not None
    assert own.ratio == pytest.approx(4)
    assert own.ratio_interval is not None
    assert own.plain_p50_ms == pytest.approx(1000)
    assert (other.ratio, other.ratio_interval, other.plain_p50_ms) == (None, None, None)
    assert other.p50_ms == pytest.approx(250)


def test_a_measured_ratio_is_taken_as_it_is(folder: Path) -> None:
    """Whatever the sampler: the checkpoint's policy was timed beside it."""
    path = ddim(folder)
    time_it(path, 250.0)
    latency = json.loads((path / "result.json").read_text())["latency"]
    told = {
        "times_as_fast": 3.5,
        "times_as_fast_interval": [3.4, 3.6],
        "clock": "cpu",
        "engine_ratio": 1.25,
        "warning": "4 times by wall time and 3.5 by CPU time",
        "load": {"before": 0.5, "after": 2.0, "cores": 2},
        "cpu": "A CPU",
    }
    change_result(path, latency=latency | told)
    study = read_study(folder)
    run = next(run for run in study.runs if run.name == path.name)
    found = latency_of(run, study.baseline(run), np.random.default_rng(0))
    assert found is not None
    assert (found.ratio, found.ratio_interval, found.engine_ratio) == (3.5, (3.4, 3.6), 1.25)
    assert found.warning == told["warning"]
    said = "ratios of CPU times, load 0.5 to 2.0 on 2 cores, A CPU"
    assert found.conditions.endswith(said)
    assert conditions(latency) == ("batch 1, 2 threads, cpu, 101 repeats after 10 warm-ups")


def test_a_share_is_of_all_steps_of_the_other_policy() -> None:
    policy = load_policy(FIXTURE)
    n = policy.n_inference_steps
    short = policy.with_sampler(policy.config.sampler.with_steps("ddim", 12))
    everything = shared_plan(short, range(12), "all")
    assert flops_share(short, everything.mask, policy) == pytest.approx(12 / n)
    assert summarize(everything, short, policy).flops_share == pytest.approx(12 / n)
    assert summarize(everything, short).flops_share == 1.0
    assert plain_flops(short) * n == plain_flops(policy) * 12


def test_an_action_error_is_the_root_of_the_mean_square() -> None:
    found, plain = torch.randn(5, 8, 3), torch.randn(5, 8, 3)
    away = (found - plain).double().numpy()
    assert squared_action_error(found, plain).numpy() == pytest.approx((away**2).mean((1, 2)))
    assert action_error(found, plain).numpy() == pytest.approx(np.sqrt((away**2).mean((1, 2))))
    assert action_error(found, found).tolist() == [0.0] * 5
    assert action_error(found[:, None], plain).shape == (5, 5)
