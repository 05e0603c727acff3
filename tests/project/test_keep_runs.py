"""Finished runs are put into results/: merged where they agree, refused by name where not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from runners.places import RESULTS
from runners.store.folder import read_episodes
from runners.store.published import OWN, Entry, published, published_run, read_list
from tests.helpers import run_files
from tools.keep_runs import main

RUN = "kitchen_none_none_s0_aaaaaaaa"


def record(seed: int, **more: Any) -> dict[str, Any]:
    ending = {"seed": seed, "status": "ok", "success": seed % 2 == 0, "score": seed / 10}
    return {**ending, "seconds": 1.0, "video": None, **more}


def made(folder: Path, records: list[dict[str, Any]], fingerprint: str = "aaaaaaaa") -> Path:
    run = folder / RUN
    run.mkdir(parents=True)
    config = {"start_seed": 0, "n_episodes": len(records), "fingerprint": fingerprint}
    OmegaConf.save(run_files.config(**config, study=folder.name), run / "config.yaml")
    (run / "result.json").write_text(run_files.result(n_episodes=len(records), of=folder.name))
    (run / "time.json").write_text(json.dumps({"of": folder.name}))
    (run / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def kept(results: Path, study: str) -> tuple[int, Any, Any]:
    """(number of its episodes, whose result, whose time)."""
    run = published_run(results, study, RUN)
    assert run is not None
    time = json.loads(run.path("time.json").read_text())["of"]
    return len(run.run().ok), run.run().result["of"], time


def contents(results: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}


def test_a_longer_run_is_kept_and_a_shorter_study_keeps_its_own(tmp_path: Path) -> None:
    results = tmp_path / "results"
    short = made(tmp_path / "short", [record(0), record(1, video="videos/1.mp4")])
    long = made(tmp_path / "long", [record(s, seconds=9.0, energy_j=1.0) for s in range(4)])
    for folder in (short, long, short):
        assert main([str(folder), "--study", folder.name], results) == 0
        before = contents(results)
        assert main([str(folder), "--study", folder.name], results) == 0
        assert contents(results) == before
    assert kept(results, "short") == (2, "short", "short")
    assert kept(results, "long") == (4, "long", "long")
    assert read_list(results / "studies/short.yaml") == {RUN: Entry(2, ("energy_j",))}
    assert read_list(results / "studies/long.yaml") == {RUN: Entry(4)}
    episodes = read_episodes(results / "runs" / RUN)
    assert [episodes[s]["energy_j"] for s in range(4)] == [1.0] * 4
    assert episodes[1]["video"] == "videos/1.mp4"


def test_a_study_that_grows_needs_no_files_of_its_own(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for n in (2, 3):
        folder = made(tmp_path / str(n) / "mine", [record(s) for s in range(n)])
        assert main([str(folder), "--study", "mine"], results) == 0
        assert kept(results, "mine")[0] == n
    assert not (results / "studies/mine").exists()
    # an older copy of it changes nothing
    before = contents(results)
    assert main([str(tmp_path / "2/mine"), "--study", "mine"], results) == 0
    assert contents(results) == before


@pytest.mark.parametrize(
    ("records", "fingerprint", "said"),
    [
        ([record(0), record(1, success=True), record(2)], "aaaaaaaa", "success of seed 1 is True"),
        ([record(0)], "bbbbbbbb", "its fingerprint is bbbbbbbb, and aaaaaaaa"),
    ],
)
def test_a_run_that_differs_is_refused_by_name(
    records: list[dict[str, Any]],
    fingerprint: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results"
    assert main([str(made(tmp_path / "a", [record(0), record(1)])), "--study", "a"], results) == 0
    before = contents(results)
    other = made(tmp_path / "b", records, fingerprint)
    assert main([str(other), "--study", "b"], results) == 1
    assert f"refused: {RUN}: {said}" in capsys.readouterr().err
    assert contents(results) == before


def test_an_error_is_no_ending_and_an_unfinished_run_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    failed = {"seed": 0, "status": "error", "success": None, "score": None, "video": None}
    for name, first in (("a", failed), ("b", record(0)), ("c", failed)):
        assert main([str(made(tmp_path / name, [first])), "--study", name], results) == 0
    assert read_episodes(results / "runs" / RUN)[0] == record(0)
    cut = made(tmp_path / "d", [record(0), record(1)])
    (cut / RUN / "episodes.jsonl").write_text(json.dumps(record(0)) + "\n")
    assert main([str(cut), "--study", "d"], results) == 0
    assert f"left out: {RUN}" in capsys.readouterr().out
    assert not (results / "studies/d.yaml").exists()
    assert main([str(tmp_path / "nowhere"), "--study", "d"], results) == 2


def test_what_is_published_is_kept_as_it_is(tmp_path: Path) -> None:
    """The studies of the same runs, put in one after the other, are those that are committed."""
    results, names = tmp_path / "results", ("caches", "reference")
    for study in names:
        for run in published(RESULTS / f"studies/{study}.yaml"):
            folder = tmp_path / study / run.name
            folder.mkdir(parents=True)
            run.copy(folder, (*OWN, "plan.txt", "episodes.jsonl"))
        assert main([str(tmp_path / study), "--study", study], results) == 0
        shutil.rmtree(tmp_path / study)
    for study in names:
        for old in published(RESULTS / f"studies/{study}.yaml"):
            new = published_run(results, study, old.name)
            assert new is not None
            assert (new.config, new.run().result) == (old.config, old.run().result)
            n = old.entry.n_episodes or 0
            assert [e["success"] for e in new.run().ok.values()][:n] == [
                e["success"] for e in old.run().ok.values()
            ]


def test_a_run_of_another_machine_takes_the_place_where_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    old = [record(s, n_steps=10 + s, video=f"videos/{s}.mp4" if s < 2 else None) for s in range(3)]
    new = [record(s, n_steps=10 + max(s, 1)) for s in range(4)]
    first, second = made(tmp_path / "first", old), made(tmp_path / "second", new)
    assert main([str(first), "--study", "first"], results) == 0
    assert main([str(second), "--study", "second"], results) == 1
    assert "n_steps of seed 0 is 11, and 10 in the run that is kept" in capsys.readouterr().err
    words = [str(second), "--study", "second", "--replace", RUN]
    assert main(words, results) == 0
    assert "of 3 seeds 1 differ in length, 0 in success" in capsys.readouterr().out
    episodes = read_episodes(results / "runs" / RUN)
    assert [episodes[s]["n_steps"] for s in range(4)] == [11, 11, 12, 13]
    assert [episodes[s].get("video") for s in range(3)] == [None, "videos/1.mp4", None]
    assert kept(results, "first") == (3, "first", "first")
    assert kept(results, "second") == (4, "second", "second")
    before = contents(results)
    assert main(words, results) == 0
    assert contents(results) == before


def test_a_shorter_run_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    long = made(tmp_path / "long", [record(s) for s in range(4)])
    short = made(tmp_path / "short", [record(s) for s in range(2)])
    assert main([str(long), "--study", "long"], results) == 0
    assert main([str(short), "--study", "short", "--replace", RUN], results) == 1
    assert "seed 2, which is kept, has no ending here" in capsys.readouterr().err
