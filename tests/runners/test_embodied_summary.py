"""Embodied metrics where they are shown: result.json, terminal, W&B and report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy

from runners.report.build import write_report
from runners.studies.comparisons import ReportConfig
from runners.studies.embodied import (
    METRICS,
    as_json,
    by_metric,
    differences,
    flat,
    means,
    spread,
    t_interval,
    table_rows,
)
from tests.helpers import fake_episodes, wandb_file
from tests.helpers.study_folder import KITCHEN, LIFT, QUADRATIC, SLOWER, copy_starter
from tests.runners.test_report import Page, section


def embodied(**known: Any) -> dict[str, Any]:
    return {**dict.fromkeys(METRICS), "time_to_subtask_s": {}, **known}


def record(seed: int, **known: Any) -> dict[str, Any]:
    return {"seed": seed, "status": "ok", "embodied": embodied(**known)}


def test_the_interval_of_a_mean_is_student_s() -> None:
    low, high = t_interval([1.0, 2.0, 3.0, 4.0, 5.0]) or (0, 0)  # t(4) = 2.776
    assert (low, high) == pytest.approx((3 - 2.776 * 0.70711, 3 + 2.776 * 0.70711), abs=1e-3)
    assert t_interval([2.0]) is None
    assert t_interval([2.0, 2.0]) == (2.0, 2.0)


def test_only_what_was_measured_is_a_number() -> None:
    assert flat(record(1, energy_j=3.0, time_to_subtask_s={"kettle": 2.0})) == {
        "energy_j": 3.0,
        "time_to_subtask_s/kettle": 2.0,
    }
    assert flat({"seed": 1, "status": "ok"}) == {}
    assert flat({"seed": 1, "status": "error", "embodied": None}) == {}
    records = [record(1, energy_j=3.0), record(2, energy_j=5.0, time_to_success_s=4.0)]
    records += [{"seed": 3, "status": "ok"}]
    assert by_metric(records) == {"time_to_success_s": {2: 4.0}, "energy_j": {1: 3.0, 2: 5.0}}
    found = means(records)
    assert (found["energy_j"].n, found["energy_j"].mean) == (2, 4.0)
    assert (found["time_to_success_s"].n, found["time_to_success_s"].interval) == (1, None)
    assert "path_length_m" not in found


def test_arms_are_paired_on_seeds_that_both_have() -> None:
    ours = [record(s, energy_j=10.0 + s, path_length_m=1.0) for s in range(8)]
    theirs = [record(s, energy_j=10.0, path_length_m=1.0) for s in range(2, 12)]
    theirs[0].pop("embodied")  # seed 2 was played by an older version
    found = differences(ours, theirs)
    assert (found["energy_j"].n, found["energy_j"].difference) == (5, 5.0)  # 3 to 7
    low, high = found["energy_j"].interval or (0, 0)
    assert (low, high) == pytest.approx((5 - 2.776 * 0.70711, 5 + 2.776 * 0.70711), abs=1e-3)
    path = found["path_length_m"]
    assert (path.n, path.difference, path.interval) == (5, 0.0, None)  # too few differ
    old = [{"seed": s, "status": "ok"} for s in range(8)]
    assert differences(ours, old) == differences(old, ours) == {}


def test_a_time_is_paired_where_both_solved() -> None:
    ours = [record(0, time_to_success_s=4.0), record(1), record(2, time_to_success_s=9.0)]
    theirs = [record(s, time_to_success_s=3.0) for s in (0, 1)] + [record(2)]
    found = differences(ours, theirs)["time_to_success_s"]
    assert (found.n, found.difference) == (1, 1.0)
    subtasks = [[record(0, time_to_subtask_s={name: 2.0})] for name in ("kettle", "microwave")]
    assert differences(*subtasks) == {}


def test_numbers_have_three_digits() -> None:
    assert spread(1234.5, (999.6, 1500.0)) == "1234 [1000, 1500]"
    assert spread(0.01234, None, "+") == "+0.0123"
    assert spread(-2.5, (-3.0, 1.0), "+") == "-2.5 [-3, +1]"


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Run with made-up episodes; `more` is the energy of seed 0, None of an older version."""
    monkeypatch.chdir(tmp_path)
    plain, more = fake_episodes.result, 0.0

    def made(seed: int, policy: Any) -> Any:
        result = plain(seed, policy)
        if more is None:
            return result
        time = 4.0 + more if result.success else None
        subtask = {"kettle": 1.0 + more} if seed % 2 else {}
        known = {"time_to_success_s": time, "time_to_subtask_s": subtask}
        energy = more + seed % 100 + (seed % 3) / 10 * more
        return replace(result, embodied=embodied(energy_j=energy, mean_chunk_jump=0.5, **known))

    def run(now: float | None, cache: str, *words: str) -> Path:
        nonlocal more
        more = now
        assert fake_episodes.run(monkeypatch, "task=kitchen", f"cache={cache}", *words) == 0
        (folder,) = Path("multirun/main").glob(f"kitchen_{cache}_*")
        return folder

    fake_episodes.fake(monkeypatch)
    monkeypatch.setattr(fake_episodes, "result", made)
    return run


def words_of(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, whatever the widths of its columns."""
    return " ".join(capsys.readouterr().out.split())


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_a_run_shows_its_means_and_its_paired_differences(
    playing: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = read(playing(0.0, "none", "n_episodes=12"))
    assert baseline["baseline"] is None
    assert baseline["embodied"]["energy_j"]["mean"] == 5.5  # seeds 100000 to 100011
    said = words_of(capsys)
    assert " energy 5.5 [3.21, 7.79] J (12 episodes) FLOPs" in said
    assert " path - joint path - jerk - " in said

    folder = playing(2.0, "uniform", "n_episodes=12", "logger=offline")
    result = read(folder)
    assert result["embodied"]["time_to_success_s"] == {"n": 9, "mean": 6.0, "interval": [6.0, 6.0]}
    assert result["embodied"]["time_to_subtask_s/kettle"]["n"] == 6
    assert "path_length_m" not in result["embodied"]
    paired = result["baseline"]["embodied"]
    assert paired["energy_j"]["n"] == 12
    assert paired["energy_j"]["difference"] == pytest.approx(2.2)
    assert paired["time_to_success_s"] == {"n": 9, "difference": 2.0, "interval": [2.0, 2.0]}
    assert paired["time_to_subtask_s/kettle"] == {"n": 6, "difference": 2.0, "interval": [2.0, 2.0]}
    assert paired["mean_chunk_jump"] == {"n": 12, "difference": 0.0, "interval": None}
    said = words_of(capsys)
    assert "6 [6, 6] s (9 episodes); +2 [+2, +2] paired on 9 seeds that both solved" in said
    assert "0.5 [0.5, 0.5] (12 episodes); +0 paired on 12 seeds largest jump -" in said
    assert "J (12 episodes); +2.2 [+2.09, +2.31] paired on 12 seeds FLOPs" in said

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content = wandb_file.read(path)
    summary = content["summary"]
    assert summary["embodied/energy_j"] == result["embodied"]["energy_j"]["mean"]
    assert summary["embodied/energy_j_low"] == result["embodied"]["energy_j"]["interval"][0]
    assert summary["embodied/time_to_success_s_n"] == 9
    assert summary["embodied/time_to_subtask_s/kettle"] == 3.0
    assert summary["paired/embodied/energy_j"] == paired["energy_j"]["difference"]
    assert summary["paired/embodied/energy_j_high"] == paired["energy_j"]["interval"][1]
    assert "paired/embodied/mean_chunk_jump_low" not in summary
    assert "embodied/path_length_m" not in summary
    table = json.loads((path.parent / "files" / summary["episodes.path"]).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["energy_j"] for row in rows[:2]] == [2.0 + 0.2, 3.0 + 0.4]
    assert {row["path_length_m"] for row in rows} == {None}
    logged = [row for row in content["history"] if "test/success_rate" in row]
    assert [row["test/energy_j"] for row in logged] == [row["energy_j"] for row in rows]


def test_older_episodes_are_a_dash_and_are_never_paired(
    playing: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("none", "n_episodes=6")
    folder = playing(None, *words)
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    for line in lines:
        del line["embodied"]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(
        json.dumps({k: v for k, v in read(folder).items() if k != "embodied"})
    )
    capsys.readouterr()
    playing(None, *words)  # finished already
    assert " embodied - FLOPs" in words_of(capsys)
    arm = playing(2.0, "uniform", "n_episodes=6", "logger=offline")
    assert read(arm)["baseline"]["n"] == 6
    assert read(arm)["baseline"]["embodied"] == {}
    said = words_of(capsys)
    assert "J (6 episodes) FLOPs" in said
    (path,) = arm.glob("wandb/offline-run-*/*.wandb")
    assert not [k for k in wandb_file.read(path)["summary"] if k.startswith("paired/embodied")]

    playing(0.0, "none", "n_episodes=12")  # goes on with what was measured from then on
    assert read(folder)["embodied"]["energy_j"]["n"] == 6
    playing(2.0, "uniform", "n_episodes=12")
    assert read(arm)["embodied"]["energy_j"]["n"] == 12
    assert read(arm)["baseline"]["embodied"]["energy_j"]["n"] == 6


def test_a_result_of_an_older_version_has_one_row() -> None:
    assert table_rows({"baseline": None}) == [("embodied", "-")]
    assert table_rows({"baseline": {"folder": None, "command": ""}}) == [("embodied", "-")]


def test_pixels_stand_where_metres_would() -> None:
    records = [record(s, path_length_px=100.0 + s, mean_squared_jerk_px2_s6=9.0) for s in (1, 2)]
    found = as_json(means(records))
    rows = dict(table_rows({"baseline": None, "embodied": found}))
    assert list(rows) == [title for title, _ in METRICS.values()]
    assert rows["path"] == "102 [95.1, 108] px  (2 episodes)"
    assert rows["jerk"] == "9 [9, 9] px2/s6  (2 episodes)"
    assert rows["joint path"] == "-"


def measure(folder: Path, more: float, **further: float | None) -> None:
    """As if its episodes had been measured."""
    path = folder / "episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        energy = 500.0 + line["seed"] % 100 + more * (line["seed"] % 7)
        time = 10.0 + more if line["success"] else None
        done = {name: 3.0 + more for name in line["details"]["completed_tasks"][:1]}
        known = {"time_to_success_s": time, "time_to_subtask_s": done}
        line["embodied"] = embodied(energy_j=energy, path_length_m=4.0, **known) | further
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_report_has_means_and_paired_differences(tmp_path: Path) -> None:
    study = copy_starter(tmp_path / "starter")
    measure(study / KITCHEN, 0.0)
    measure(study / SLOWER, 1.0)
    write_report(study, ReportConfig())
    text = (study / "report/report.md").read_text()
    lines = section(text, "Time, motion and energy on kitchen")
    starts = [i for i, line in enumerate(lines) if line.startswith(("| arm", "| diff", "| time"))]
    shown, gaps, subtasks = (lines[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True))
    cells = [line.strip("| ").split(" | ") for line in shown]
    assert cells[0][:3] == ["arm", "time to success, s", "path, m"]
    assert cells[0][-1] == "energy, J"
    plain, slower, other = (
        next(row for row in cells if label in row[0])
        for label in ("none", "20 steps", "10 steps, quadratic")
    )
    assert plain[1:4] == ["10 [10, 10]", "4 [4, 4]", "-"]
    assert plain[-1] == "550 [544, 555]"
    assert slower[1] == "11 [11, 11]"
    assert other[1:] == ["-"] * 8
    assert not [line for line in gaps if "none" in line]
    (difference,) = (line.strip("| ").split(" | ") for line in gaps if "20 steps" in line)
    assert difference[1:4] == ["+1 [+1, +1] (74)", "+0", "-"]  # 77 of its seeds, 3 of them alone
    gains = np.arange(100000, 100100) % 7
    low, high = scipy.stats.t.interval(0.95, 99, gains.mean(), scipy.stats.sem(gains))
    told = f"{gains.mean():+.3g} [{low:+.3g}, {high:+.3g}]"
    assert difference[-1] == told
    (unmeasured,) = (line for line in gaps if "10 steps, quadratic" in line)
    assert unmeasured.strip("| ").split(" | ")[1:] == ["-"] * 8
    assert "microwave" in subtasks[0]
    assert any("4 [4, 4]; +1 [+1, +1] (" in line for line in subtasks)
    assert "Time, motion and energy on lift" not in text

    with (study / "report/arms.csv").open() as file:
        found = {row["run"]: row for row in csv.DictReader(file)}
    assert found[SLOWER]["time_to_success_s"] == "11.0"
    assert found[SLOWER]["time_to_success_s_n_paired"] == "74"
    assert float(found[SLOWER]["energy_j_difference"]) == pytest.approx(gains.mean())
    assert float(found[SLOWER]["energy_j_difference_low"]) == pytest.approx(low)
    assert found[SLOWER]["path_length_m_difference_low"] == ""
    assert found[KITCHEN]["energy_j_difference"] == ""
    assert float(found[KITCHEN]["energy_j"]) == pytest.approx(549.5)
    assert found[SLOWER]["time_to_subtask_s/microwave"] == "4.0"
    assert {found[QUADRATIC][name] for name in METRICS} == {""}
    page = Page((study / "report/report.html").read_text())
    assert "Time, motion and energy on kitchen" in page.said
    assert told in page.said


def test_the_report_names_pixels(tmp_path: Path) -> None:
    study = copy_starter(tmp_path / "starter")
    pixels = {"path_length_m": None, "path_length_px": 700.0, "mean_squared_jerk_px2_s6": 1e6}
    measure(study / KITCHEN, 0.0, **pixels)
    measure(study / SLOWER, 1.0, **pixels)
    write_report(study, ReportConfig())
    lines = section((study / "report/report.md").read_text(), "Time, motion and energy on kitchen")
    headers = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| arm", "| d"))]
    for header in headers:
        assert header[2:5] == ["path, px", "joint path, rad", "jerk, px2/s6"]
    assert len(headers) == 2
    assert any("| 700 [700, 700] |" in line for line in lines)
    with (study / "report/arms.csv").open() as file:
        found = {row["run"]: row for row in csv.DictReader(file)}
    assert (found[KITCHEN]["path_length_px"], found[KITCHEN]["path_length_m"]) == ("700.0", "")
    assert found[SLOWER]["path_length_px_n_paired"] == "100"
    assert found[LIFT]["path_length_px"] == ""


def test_a_study_of_older_runs_has_empty_columns_and_no_section(tmp_path: Path) -> None:
    study = copy_starter(tmp_path / "starter")
    write_report(study, ReportConfig())
    assert "Time, motion" not in (study / "report/report.md").read_text()
    with (study / "report/arms.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["energy_j"] for row in rows} == {row["energy_j_n"] for row in rows} == {""}
