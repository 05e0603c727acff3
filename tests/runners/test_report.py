"""The report of a study: its numbers, its page, and what it says of what is missing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from runners.report.build import run, write_report
from runners.studies.cautions import mixed_machines, unsteady
from runners.studies.comparisons import ReportConfig, findings, over_strata, pareto
from runners.studies.study import read_study
from tests.helpers.places import PROJECT
from tests.helpers.study_folder import (
    CUT_OFF,
    EVEN,
    FAILED,
    KITCHEN,
    LIFT,
    LIFT_EVEN,
    QUADRATIC,
    SLOWER,
    change_result,
    copy_starter,
    cut_off,
    failed,
    film,
    time_it,
)

VOID = ("meta", "br")
SILENT = ("style", "script")


class Page(HTMLParser):
    """What a page loads and says; wrongly closed tags are refused."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.labels: list[str | None] = []
        self.said = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.open += [tag] * (tag not in VOID)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        self.labels += [values.get("aria-label")] if values.get("role") == "img" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data if self.open and self.open[-1] not in SILENT else ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_starter(tmp_path / "starter")


def rows(study: Path) -> dict[str, dict[str, str]]:
    with (study / "report/arms.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def section(text: str, title: str) -> list[str]:
    """The lines of a section of report.md."""
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0].splitlines()


def test_the_numbers_of_the_starter_study(folder: Path) -> None:
    """As in docs/results/starter.md."""
    write_report(folder, ReportConfig())
    found = rows(folder)
    assert len(found) == 7
    slower = found[SLOWER]
    assert slower["label"] == "uniform, 20 steps, quadratic"
    assert (slower["n_success"], slower["wins"], slower["losses"]) == ("77", "3", "9")
    assert float(slower["p_mcnemar"]) == pytest.approx(0.146, abs=5e-4)
    assert float(slower["difference_low"]) == pytest.approx(-0.14, abs=5e-3)
    assert (slower["loss_detected"], slower["noninferior"]) == ("False", "False")
    assert float(slower["flops_share"]) == pytest.approx(0.217, abs=5e-4)
    assert slower["times_as_fast"] == ""
    # its own result was written before the baseline's; the report pairs it all the same
    assert json.loads((folder / QUADRATIC / "result.json").read_text())["baseline"] == {
        "folder": None,
        "command": "python run.py cache=none task=kitchen study=starter n_episodes=100 n_envs=8 "
        "latency.repeats=0",
    }
    assert (found[QUADRATIC]["baseline"], found[QUADRATIC]["losses"]) == (KITCHEN, "38")
    assert (found[EVEN]["loss_detected"], found[EVEN]["noninferior"]) == ("True", "False")
    assert found[LIFT_EVEN]["baseline"] == LIFT
    assert found[KITCHEN]["baseline"] == ""
    # five comparisons; the third smallest p is that of lift, even
    assert float(found[LIFT_EVEN]["p_holm"]) == pytest.approx(
        3 * float(found[LIFT_EVEN]["p_mcnemar"])
    )
    text = (folder / "report/report.md").read_text()
    (line,) = (row for row in section(text, "Success on kitchen") if "4 / 38" in row)
    assert line == (
        "| 3 uniform, 10 steps, quadratic | 0.49 [0.39, 0.59] | 49 of 100 | -0.34 [-0.45, -0.23] "
        "| 4 / 38 | < 0.001 | < 0.001 | yes | no |"
    )
    pooled = "\n".join(section(text, "Over tasks and checkpoints"))
    assert "| uniform, 10 steps, even | kitchen; lift | -0.54 [-0.60, -0.48] | 1 / 109 |" in pooled
    assert "20 steps" not in pooled
    assert "Missing, failed" not in text  # uniform with 20 steps on lift: nobody asked for it
    assert "cache.spacing=even study=starter" in "\n".join(section(text, "Commands"))


def test_the_page_is_one_small_file_that_loads_nothing(folder: Path) -> None:
    for run_folder in folder.iterdir():
        time_it(run_folder, 250.0 if "uniform" in run_folder.name else 1000.0)
    failed(folder)
    write_report(folder, ReportConfig())
    file = folder / "report/report.html"
    assert file.stat().st_size < 200_000
    page = Page(file.read_text())
    assert page.loads == []
    # two charts a task, two of latency, a map an arm
    assert len(page.labels) == 2 * 2 + 2 + 7
    assert all(page.labels)
    assert "RuntimeError: 3 | 4 <queries>" in page.said
    assert "4 uniform, 20 steps, quadratic: 20% of 100 steps x 24 branches computed" in page.labels
    assert 'name="viewport"' in file.read_text()


def test_latency_is_reported_with_its_ratio_and_the_front(folder: Path) -> None:
    for name, ms in ((KITCHEN, 990.0), (SLOWER, 250.0), (QUADRATIC, 150.0), (EVEN, 160.0)):
        time_it(folder / name, ms)
    write_report(folder, ReportConfig())
    found = rows(folder)[SLOWER]
    assert float(found["latency_p50_ms"]) == pytest.approx(250)
    assert float(found["times_as_fast"]) == pytest.approx(4)
    assert float(found["times_as_fast_low"]) < 4 < float(found["times_as_fast_high"])
    assert float(found["times_flops_allow"]) == pytest.approx(4.6, abs=5e-3)
    arms = findings(read_study(folder), ReportConfig())
    assert [arm.run.name for arm in pareto(arms)] == [QUADRATIC, SLOWER, KITCHEN]
    assert not unsteady(arms)
    as_timed = shutil.copy(folder / EVEN / "result.json", folder / "as_timed.json")
    config = folder / EVEN / "config.yaml"
    as_it_was = config.read_text()
    config.write_text(as_it_was.replace("steps: 100", "steps: 16"))  # another sampler
    time_it(folder / EVEN, 16.0, plain_ms=160.0)
    arms = {arm.run.name: arm for arm in findings(read_study(folder), ReportConfig())}
    assert not unsteady(list(arms.values()))
    assert arms[EVEN].times_as_fast is None  # over the plain policy of 16 steps: another one
    assert EVEN not in [arm.run.name for arm in pareto(list(arms.values()))]
    config.write_text(as_it_was)
    shutil.copyfile(as_timed, folder / EVEN / "result.json")
    text = (folder / "report/report.md").read_text()
    assert "| 5 none | not measured |" in text
    time_it(folder / EVEN, 160.0, plain_ms=1500.0)
    write_report(folder, ReportConfig())
    warning = "On kitchen the plain policy took 1000 to 1500 ms in different runs: compare"
    assert warning in (folder / "report/report.md").read_text()


def test_what_did_not_finish_is_named_and_compared_with_nothing(folder: Path) -> None:
    cut_off(folder)
    failed(folder)
    change_result(folder / EVEN, errors=[{"seed": 100003, "error": "MjError: bad state"}])
    lines = (folder / EVEN / "episodes.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"seed": 100003' not in line]
    record = json.loads(next(line for line in lines if '"seed": 100003' in line))
    broken = {**record, "status": "error", "success": None, "score": None, "details": None}
    (folder / EVEN / "episodes.jsonl").write_text("\n".join([*kept, json.dumps(broken)]) + "\n")
    write_report(folder, ReportConfig())
    found = rows(folder)
    assert set(found) == {p.parent.name for p in folder.glob("*/result.json")}
    assert (found[EVEN]["n_episodes"], found[EVEN]["n_errors"]) == ("99", "1")
    assert (found[EVEN]["n_paired"], found[EVEN]["losses"]) == ("99", "82")
    text = "\n".join(
        section((folder / "report/report.md").read_text(), "Missing, failed and incomplete")
    )
    assert f"| {CUT_OFF} | cut off | 40 of 100 |" in text
    assert f"| {FAILED} | failed |  | RuntimeError: 3 \\| 4 \\<queries> |" in text
    assert "| python run.py cache=bac task=kitchen |" in text
    assert f"| {EVEN} | errors: 1 | 100 of 100 | seed 100003: MjError: bad state |" in text


def test_a_run_that_is_being_extended_is_not_whole(folder: Path) -> None:
    config = (folder / SLOWER / "config.yaml").read_text()
    (folder / SLOWER / "config.yaml").write_text(
        config.replace("n_episodes: 100", "n_episodes: 150")
    )
    study = read_study(folder)
    assert SLOWER not in [found.name for found in study.whole]
    assert len(findings(study, ReportConfig())) == 6


def test_films_of_a_discordant_seed_are_side_by_side(folder: Path) -> None:
    for name in (KITCHEN, EVEN, SLOWER):
        film(folder / name, 100003)  # solved by none and by 20 steps, not by even
    film(folder / EVEN, 100001)  # filmed in one arm only
    write_report(folder, ReportConfig())
    page = Page((folder / "report/report.html").read_text())
    assert len(page.loads) == 4  # two films, each with a link
    assert set(page.loads) == {f"../{name}/videos/100003.mp4" for name in (EVEN, KITCHEN)}
    assert all((folder / "report" / load).exists() for load in page.loads)
    assert f"](../{EVEN}/videos/100003.mp4)" in (folder / "report/report.md").read_text()


def test_strata_are_tasks_checkpoints_and_noise_seeds(folder: Path) -> None:
    for name in (KITCHEN, SLOWER):
        copied = Path(shutil.copytree(folder / name, folder / name.replace("_s0_", "_s1_")))
        config = (copied / "config.yaml").read_text()
        (copied / "config.yaml").write_text(config.replace("noise_seed: 0", "noise_seed: 1"))
    change_result(folder / SLOWER.replace("_s0_", "_s1_"), baseline={"folder": None})
    study = read_study(folder)
    assert set(study.strata.values()) == {"kitchen, noise seed 0", "kitchen, noise seed 1", "lift"}
    arms = findings(study, ReportConfig())
    paired = {arm.run.name: arm.versus.baseline.name for arm in arms if arm.versus}
    assert paired[SLOWER.replace("_s0_", "_s1_")] == KITCHEN.replace("_s0_", "_s1_")
    assert paired[SLOWER] == KITCHEN
    methods = {method.label: method.pooled for method in over_strata(arms)}
    assert methods["uniform, 20 steps, quadratic"].n == 200
    assert methods["uniform, 20 steps, quadratic"].losses == 18


def test_other_settings_of_a_task_are_another_stratum(folder: Path) -> None:
    longer = Path(shutil.copytree(folder / SLOWER, folder / "kitchen_uniform_none_s0_10000000"))
    config = (longer / "config.yaml").read_text()
    (longer / "config.yaml").write_text(config.replace("    max_steps: 280", "    max_steps: 560"))
    change_result(longer, baseline={"folder": None, "command": "python run.py cache=none"})
    study = read_study(folder)
    assert study.strata[longer.name] == "kitchen, max steps 560"
    assert study.labels[longer.name] == study.labels[SLOWER]
    arms = {arm.run.name: arm for arm in findings(study, ReportConfig())}
    assert arms[longer.name].versus is None
    assert arms[SLOWER].versus is not None
    write_report(folder, ReportConfig())
    text = (folder / "report/report.md").read_text()
    assert f"| {longer.name} | no baseline |  |  | python run.py cache=none |" in text


def test_another_sampler_is_an_arm_and_no_baseline(folder: Path) -> None:
    ddim = Path(shutil.copytree(folder / KITCHEN, folder / "kitchen_none_none_s0_dd1111dd"))
    config = (ddim / "config.yaml").read_text()
    config = config.replace("kind: ddpm\n  steps: 100", "kind: ddim\n  steps: 16")
    (ddim / "config.yaml").write_text(config)
    flops = {"query": 4_000_000_000, "plain": 4_000_000_000, "share": 1.0}
    change_result(ddim, flops=flops, baseline={"folder": KITCHEN})
    arms = {arm.run.name: arm for arm in findings(read_study(folder), ReportConfig())}
    arm = arms[ddim.name]
    assert arm.label == "ddim-16"
    assert not arm.is_baseline
    assert arm.flops.share == pytest.approx(4e9 / 25363251200)
    assert arms[QUADRATIC].versus is not None
    assert arms[QUADRATIC].versus.baseline.name == KITCHEN
    assert arms[KITCHEN].label == "none"


def test_success_is_drawn_over_control_delay(folder: Path) -> None:
    delayed = Path(shutil.copytree(folder / SLOWER, folder / "kitchen_uniform_none_s0_20000000"))
    realtime = {"delay_steps": "2", "mean": 2.0, "said": "2 steps at 12.5 Hz (160 ms)"}
    with (delayed / "config.yaml").open("a") as file:
        file.write(f"realtime: {json.dumps(realtime)}\n")
    change_result(delayed, realtime=realtime, baseline={"folder": KITCHEN})
    arms = {arm.run.name: arm for arm in findings(read_study(folder), ReportConfig())}
    assert arms[delayed.name].label == f"{arms[SLOWER].label}, delay 2"
    assert arms[delayed.name].method == arms[SLOWER].method
    assert [arms[name].delay for name in (SLOWER, delayed.name)] == [0.0, 2.0]
    write_report(folder, ReportConfig())
    page = Page((folder / "report/report.html").read_text())
    assert page.labels.count("Success rate by control delay on kitchen") == 1
    assert "Success rate by control delay on lift" not in page.labels
    shutil.rmtree(folder / SLOWER)  # no method with and without a delay
    write_report(folder, ReportConfig())
    page = Page((folder / "report/report.html").read_text())
    assert page.labels.count("Success rate by control delay on kitchen") == 1


def test_the_same_study_gives_the_same_files(folder: Path) -> None:
    time_it(folder / SLOWER, 250.0)
    first = {file.name: file.read_bytes() for file in write_report(folder, ReportConfig())}
    assert {"report.html", "report.md", "arms.csv"} <= set(first)
    again = {file.name: file.read_bytes() for file in write_report(folder, ReportConfig())}
    assert again == first
    assert {p.name for p in (folder / "report").iterdir()} == set(first)


def test_columns_are_typed_in_parquet(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_report(folder, ReportConfig())
    table = parquet.read_table(folder / "report/arms.parquet")
    assert table.num_rows == 7
    assert str(table.schema.field("difference").type) == "double"
    assert table.column("wins").to_pylist()[1:4] == [0, 4, 3]


def test_a_study_of_failures_has_a_report_too(tmp_path: Path) -> None:
    failed(tmp_path / "study")
    write_report(tmp_path / "study", ReportConfig())
    page = Page((tmp_path / "study/report/report.html").read_text())
    assert "RuntimeError: 3 | 4 <queries>" in page.said
    assert (tmp_path / "study/report/arms.csv").exists()


MISTAKES = {
    "nowhere": "the study must be a folder with runs or a list of them, there is none at nowhere",
    "empty": "the study must hold at least one evaluation, there is none in empty",
    "starter --margin 1.5": "margin must be above 0 and below 1, got 1.5",
    "starter --margin x": "argument --margin: invalid float value: 'x'",
    "starter --seed -1": "seed must be at least 0, got -1",
    "": "report needs a study, or --all: skipstep report multirun/main",
    "starter --all": "report needs a study, or --all: skipstep report multirun/main",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("empty").mkdir()
    assert run(line.split()) == 2
    assert capsys.readouterr().err == f"error: {MISTAKES[line]}\n"
    assert not list(Path().glob("*/report"))


def test_the_command_also_as_an_installed_package(folder: Path, tmp_path: Path) -> None:
    """From another folder, without the packages beside it: it needs no torch and no simulator."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/skipstep").symlink_to(PROJECT)
    command = [sys.executable, "-m", "skipstep.runners.report", str(folder), "--margin", "0.2"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert str(folder / "report/report.html") in done.stdout
    assert rows(folder)[SLOWER]["noninferior"] == "True"


def test_arms_of_different_machines_are_flagged(tmp_path: Path) -> None:
    study = copy_starter(tmp_path / "study")

    def warnings() -> list[str]:
        return mixed_machines(findings(read_study(study), ReportConfig()))

    assert warnings() == []  # an older study does not say
    path = study / QUADRATIC / "episodes.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**r, "machine": "Abacus"}) + "\n" for r in records))
    (line,) = warnings()
    assert "uniform" in line
    assert "Abacus; not recorded" in line
    write_report(study, ReportConfig())
    assert f"{line}." in (study / "report/report.md").read_text()
