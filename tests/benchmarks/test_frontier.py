"""The study of success against measured time: its arms, and the tables made of its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from accel import accelerated
from benchmarks.frontier import averaging, measured, page
from benchmarks.frontier.arms import ARMS, Arm
from benchmarks.frontier.averaging import MeanOfSamples
from benchmarks.frontier.play import command, keep_records
from runners import cli
from runners.jobs.job import Job
from runners.store.published import Entry, read_list, write_list
from runners.studies.arms import timing_label
from tests.accel.test_fused import POLICIES
from tests.helpers import run_files
from tests.helpers.stock import OBS, TO


def job_of(arm: Arm) -> Job:
    words = command("kitchen", arm, 100)
    assert words[0] == "run.py"
    job: Job = cli.job_of(words[1:])
    return job


@pytest.mark.parametrize("question", sorted({arm.question for arm in ARMS}))
def test_arms_are_different_runs_of_one_study(question: str) -> None:
    arms = [arm for arm in ARMS if arm.question == question][:7]
    jobs = [job_of(arm) for arm in arms]
    assert len({job.fingerprint for job in jobs}) == len(arms)
    assert {(job.settings.study, job.settings.threads) for job in jobs} == {("frontier", 1)}
    assert len({timing_label(job.config) for job in jobs}) == len(arms)


def test_names_are_the_labels_of_runs_where_nothing_is_cached() -> None:
    names = {arm.name for arm in ARMS}
    assert len(names) == len(ARMS)
    arm = next(arm for arm in ARMS if arm.name == "ddpm-10 trailing, uniform S = 5")
    assert timing_label(job_of(arm).config) == arm.name


def made(folder: Path, sampler: dict[str, Any], outcomes: list[bool], baseline: bool) -> None:
    folder.mkdir(parents=True)
    config = {
        "task": {"name": "kitchen"},
        "start_seed": 0,
        "n_episodes": len(outcomes),
        "cache": {"name": "none"},
        "quant": {"name": "none"},
        "sampler": sampler,
        "runner": {"name": "evaluate"},
    }
    OmegaConf.save(run_files.config(**config), folder / "config.yaml")
    flops = {"query": 5, "plain": 100, "share": sampler["steps"] / 100, "executed_share": 0.05}
    result = {"flops": flops, "baseline": None if baseline else {"folder": "x"}, "latency": None}
    (folder / "result.json").write_text(run_files.result(**result))
    records = [
        {
            "seed": seed,
            "status": "ok",
            "success": success,
            "score": float(success),
            "embodied": {"energy_j": 100.0 + sampler["steps"] + seed},
        }
        for seed, success in enumerate(outcomes)
    ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_tables_have_what_the_runs_and_the_timing_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (page, measured):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    runs, study = tmp_path / "runs", tmp_path / "studies/frontier"
    study.mkdir(parents=True)
    plain = [True] * 6 + [False] * 4
    made(runs / "kitchen_a", {"kind": "ddpm", "steps": 100}, plain, baseline=True)
    fewer = {"kind": "ddpm", "steps": 5, "spacing": "trailing"}
    made(runs / "kitchen_b", fewer, [True] * 5 + [False] * 4 + [True], baseline=False)
    timed = {"cpu_ratio": 97.0, "cpu_ratio_interval": [95.0, 99.0]}
    around = {"load": [0.5, 0.6], "rounds": 40, "threads": 1, "cpu": "Abacus"}
    timings = {"kitchen": {"machine": around, "ddpm-5 trailing": timed}}
    write_list(study.with_suffix(".yaml"), {"kitchen_a": Entry(10), "kitchen_b": Entry(10)})
    (study / "latency.json").write_text(json.dumps(timings))
    lines = page.page().splitlines()
    (row,) = [line for line in lines if line.startswith("| ddpm-5") and "97.0x" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:6] == ["ddpm-5 trailing", "5", "5.0%", "97.0x [95.0, 99.0]", cells[4], "10"]
    assert cells[4].startswith("0.60 [0.31, 0.83]")
    assert cells[7:9] == ["1 / 1", "1.000"]
    assert any("40 rounds of every arm in turn" in line and "Abacus" in line for line in lines)
    assert any(line.startswith("| ddpm-5 trailing |") and "-95" in line for line in lines)
    assert page.best("kitchen", ["ddpm-5 trailing"]).splitlines()[-1] == row
    slower = {**timed, "cpu_ratio": 60.0, "cpu_ratio_interval": [58.0, 61.0]}
    timings["kitchen"] |= {"machine": {**around, "cpu": "Counting rods"}, "ddpm-5 trailing": slower}
    (study / "elsewhere.json").write_text(json.dumps(timings))
    said, *_, other = page.best("kitchen", ["ddpm-5 trailing"], "elsewhere.json").splitlines()
    assert "Counting rods" in said
    assert other == row.replace("97.0x [95.0, 99.0]", "60.0x [58.0, 61.0]")


def test_a_runs_records_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.frontier.play.RESULTS", tmp_path / "kept")
    sampler = {"kind": "ddpm", "steps": 5}
    made(tmp_path / "run", sampler, [True], baseline=False)
    assert keep_records(tmp_path / "run") == 0
    kept = sorted(path.name for path in (tmp_path / "kept/runs/run").iterdir())
    assert kept == ["config.yaml", "episodes.jsonl", "result.json"]
    assert read_list(tmp_path / "kept/studies/frontier.yaml") == {"run": Entry(1)}
    made(tmp_path / "other/run", sampler, [False], baseline=False)
    assert keep_records(tmp_path / "other/run") == 1


def test_a_mean_of_samples_is_one_of_the_queries_own_noise() -> None:
    policy = POLICIES["causal", 0]
    obs = torch.randn((3, TO, OBS), generator=torch.Generator().manual_seed(0))

    def act(rows: list[int], n_samples: int) -> torch.Tensor:
        noise = [torch.Generator().manual_seed(row) for row in rows]
        with accelerated(policy) as fast:
            return MeanOfSamples(fast, n_samples).act(obs[rows], noise)

    mean = act([0, 1, 2], 4)
    assert mean.shape == (3, policy.n_action_steps, policy.action_dim)
    torch.testing.assert_close(act([2, 1], 4), mean[[2, 1]], atol=1e-4, rtol=0)
    many = [act([0], 1)] + [act([0], n) for n in (64, 128)]
    assert (many[2] - many[1]).abs().mean() < (many[0] - many[1]).abs().mean()


def test_averaging_counts_wins_and_losses_against_the_plain_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (page, measured):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    sampler, names = {"kind": "ddpm", "steps": 100}, [f"kitchen_none_none_s0_{x}" for x in "ab"]
    made(tmp_path / "runs" / names[0], sampler, [True, False, True], baseline=True)
    made(tmp_path / "runs" / names[1], sampler, [True, True, True], baseline=False)
    (tmp_path / "studies").mkdir()
    write_list(tmp_path / "studies/frontier.yaml", {name: Entry(3) for name in names})
    plain = averaging.plain_success("kitchen")
    assert plain == {0: True, 1: False, 2: True}
    found = averaging.summary({1: True, 0: True, 2: False}, plain)
    assert (found["episodes"], found["successes"]) == (3, 2)
    versus = found["against the plain policy"]
    assert (versus["wins"], versus["losses"]) == (1, 1)
    assert list(found["success"]) == ["0", "1", "2"]
    (tmp_path / "studies/frontier").mkdir()
    measured.keep_measured(averaging.NAME, "kitchen", {"ddpm-100, mean of 4": found})
    (row,) = [line for line in page.page().splitlines() if "mean of 4" in line]
    assert row.startswith("| ddpm-100, mean of 4 | 0.67 [")
    assert "| 1 / 1 | 1.000 |" in row
