"""The study of success against measured time: its arms, and the tables made of its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from benchmarks.frontier import page
from benchmarks.frontier.arms import ARMS, Arm
from benchmarks.frontier.play import command, keep_records
from runners import cli
from runners.jobs.job import Job
from runners.store.published import Entry, read_list, write_list


def job_of(arm: Arm) -> Job:
    words = command("kitchen", arm, 100)
    assert words[0] == "run.py"
    job: Job = cli.job_of(words[1:])
    return job


@pytest.mark.parametrize("question", sorted({arm.question for arm in ARMS}))
def test_arms_are_different_runs_of_one_study(question: str) -> None:
    arms = [arm for arm in ARMS if arm.question == question][:6]
    jobs = [job_of(arm) for arm in arms]
    assert len({job.fingerprint for job in jobs}) == len(arms)
    assert {(job.settings.study, job.settings.threads) for job in jobs} == {("frontier", 1)}
    assert len({page.label_of(job.config) for job in jobs}) == len(arms)


def test_names_are_the_labels_of_runs_where_nothing_is_cached() -> None:
    names = {arm.name for arm in ARMS}
    assert len(names) == len(ARMS)
    arm = next(arm for arm in ARMS if arm.name == "ddpm-10 trailing, uniform S = 5")
    assert page.label_of(job_of(arm).config) == arm.name


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
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    flops = {"query": 5, "plain": 100, "share": sampler["steps"] / 100, "executed_share": 0.05}
    result = {"flops": flops, "baseline": None if baseline else {"folder": "x"}, "latency": None}
    (folder / "result.json").write_text(json.dumps(result))
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
    monkeypatch.setattr(page, "RESULTS", tmp_path)
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
