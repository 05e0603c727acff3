"""Where things stand on a report's page, without a browser: verdict, columns, names, films."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from runners.formatting import points
from runners.report.build import run, write_report, write_site
from runners.report.colours import colours, distinct, luminance
from runners.report.forest import WIDTH, differences
from runners.report.headline import headline
from runners.report.index import studies_here
from runners.report.placing import Box, placed, text_box
from runners.report.scatter import success_by_speed
from runners.studies.asked import FILE, note_asked
from runners.studies.comparisons import ReportConfig
from runners.studies.speeds import TOGETHER
from tests.helpers.many_arms import an_arm, compared, many_arms
from tests.helpers.study_folder import (
    EVEN,
    KITCHEN,
    LIFT,
    QUADRATIC,
    SLOWER,
    change_result,
    copy_starter,
    film,
    time_it,
)

TEXT = re.compile(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"[^>]*>([^<]*)</text>')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_starter(tmp_path / "starter")


def page_of(folder: Path) -> str:
    write_report(folder, ReportConfig())
    return (folder / "report/report.html").read_text()


VERDICTS = {  # wins and losses of 100 pairs -> what is said of them at 5 points
    (9, 0): "fast on kitchen: 10.0x [9.00, 11.0], +9 points [+5, +16] on 100 pairs: non-inferior",
    (1, 30): "fast on kitchen: 10.0x [9.00, 11.0], -29 points [-39, -20] on 100 pairs: a loss is",
    (4, 5): "fast on kitchen: 10.0x [9.00, 11.0], -1 points [-8, +6] on 100 pairs: undecided at 5",
}


@pytest.mark.parametrize(("wins", "losses"), VERDICTS)
def test_the_verdict_says_what_the_interval_says(wins: int, losses: int) -> None:
    arms = [an_arm("none", None, 1.0), an_arm("fast", compared(wins, losses, 100), 10.0)]
    assert headline(arms, 0.05).verdict.startswith(VERDICTS[wins, losses])


def test_the_verdict_is_of_the_fastest_arm_without_a_loss() -> None:
    slow, fast = an_arm("slow", compared(9, 0, 100), 5.0), an_arm("fast", compared(9, 0, 100), 7.0)
    lost, open_ = an_arm("lost", compared(0, 40, 100), 90.0), an_arm("o", compared(4, 5, 100), 80.0)
    found = headline([slow, lost, fast, open_], 0.05)
    assert found.verdict.startswith("fast on kitchen: 7.00x")
    assert found.rule.startswith("The fastest of 2 arms on kitchen that are non-inferior")
    assert "of 4 compared" in found.rule
    said = headline([lost, open_], 0.05).verdict
    assert said.endswith("a loss is detected in 1, 1 undecided")
    assert headline([an_arm("none", None)], 0.05).verdict.startswith("No arm could be compared")


def test_without_a_measured_speed_up_the_verdict_names_flops() -> None:
    said = headline([an_arm("few", compared(9, 0, 100))], 0.05)
    assert said.verdict.startswith("few on kitchen: 10.0% of the FLOPs, +9 points")
    assert "no speed-up was measured" in said.rule


def test_bounds_that_would_round_to_nothing_have_more_digits() -> None:
    assert [points(v) for v in (0.0, -0.001, 0.004, -0.0004, 0.06)] == [
        *("0", "-0.1", "+0.4", "-0.04", "+6")
    ]


def test_the_forest_plot_has_columns() -> None:
    arms = many_arms(40)
    svg = differences(arms, colours(arms), 0.05)
    found = [(float(x), float(y), anchor, words) for x, y, anchor, words in TEXT.findall(svg)]
    names = [f for f in found if f[2] == "start"]
    numbers = [f for f in found if f[2] == "end"]
    assert {x for x, *_ in names} == {0.0}
    assert {x for x, *_ in numbers} == {WIDTH}
    assert len(numbers) == 40 + 1  # and a heading
    assert all(re.fullmatch(r"[-+]?[\d.]+ \[.*\]", words) for *_, words in numbers[1:])
    widest = max(text_box(x, y, words).right for x, y, _, words in names)
    narrowest = min(text_box(x, y, words, "end").left for x, y, _, words in numbers)
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert widest < min(dots) <= max(dots) < narrowest


@pytest.mark.parametrize("n", [3, 55])
def test_names_of_points_lie_over_nothing(n: int) -> None:
    arms = many_arms(n)
    svg = success_by_speed(arms, colours(arms))
    names = [
        text_box(float(x), float(y), words, anchor)
        for x, y, anchor, words in TEXT.findall(svg)
        if words in {arm.label for arm in arms}
    ]
    assert len(names) >= min(n, 10)
    assert not [pair for pair in combinations(names, 2) if pair[0].meets(pair[1])]
    left_out = re.search(r"Without room for a name: (\d+)", svg)
    assert len(names) + int(left_out[1] if left_out else 0) == n + 1
    assert "times as fast, measured within one run" in svg


def test_a_name_without_room_is_left_out_and_none_lies_over_a_point() -> None:
    room = Box(0, 0, 60, 40)
    found = placed([(30.0, 20.0, "here"), (31.0, 21.0, "much too long for this room")], room)
    assert found[1] is None
    assert found[0] is not None
    assert not found[0].box.meets(Box(26, 16, 35, 25))


def test_the_axis_of_success_is_zoomed_to_the_data() -> None:
    arms = [an_arm("none", None, 1.0, 0.98), an_arm("fast", compared(1, 1, 100), 10.0, 0.97)]
    ticks = [float(w) for *_, w in TEXT.findall(success_by_speed(arms, colours(arms))) if "." in w]
    assert min(ticks) > 0.85


def test_no_colour_is_used_twice_and_all_can_be_seen() -> None:
    arms = many_arms(80)
    labels = {arm.label for arm in arms}
    assert len(set(colours(arms).values())) == len(labels)
    for colour in distinct(80):
        bright = luminance(colour)
        contrasts = 1.05 / (bright + 0.05), (bright + 0.05) / (luminance("#16181b") + 0.05)
        assert min(contrasts) > 3


def test_what_a_reader_sees_first(folder: Path) -> None:
    for name, ms in ((KITCHEN, 990.0), (SLOWER, 250.0), (EVEN, 160.0)):
        time_it(folder / name, ms)
    for run_folder in folder.iterdir():
        result = json.loads((run_folder / "result.json").read_text())
        versions = {**result["versions"], "commit": "feed123"}
        change_result(run_folder, versions=versions, finished="2026-11-05T10:00:00+00:00")
    page = page_of(folder)
    head = page.partition("<h2>")[0]
    assert '<p class="verdict">None of 3 arms on kitchen is shown non-inferior' in head
    assert "2026-11-05; CPU not recorded; commit feed123." in head
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[0] == "Success on kitchen"
    text = (folder / "report/report.md").read_text()
    assert text.splitlines()[2].startswith("**None of 3 arms on kitchen")


def test_arms_are_in_their_natural_order(folder: Path) -> None:
    write_report(folder, ReportConfig())
    lines = (folder / "report/arms.csv").read_text().splitlines()[1:]
    kitchen = [line.split('"')[1] for line in lines if ",kitchen," in line and '"' in line]
    assert kitchen == [
        *("uniform, 10 steps, even", "uniform, 10 steps, quadratic"),
        "uniform, 20 steps, quadratic",
    ]


def test_only_jobs_that_were_asked_for_are_missing(folder: Path) -> None:
    assert "Missing, failed" not in page_of(folder)
    asked = [folder / SLOWER, folder / "lift_bac_none_s0_abcdef01"]
    note_asked(asked, "python run.py -m cache=uniform,bac")
    page = page_of(folder)
    assert re.findall(r"<h2>(.*?)</h2>", page)[-1] == "Missing, failed and incomplete"
    missing = page.partition("<h2>Missing, failed and incomplete")[2]
    assert "lift_bac_none_s0_abcdef01" in missing
    assert "python run.py -m cache=uniform,bac" in missing
    assert SLOWER not in missing
    note_asked(asked[:1], "python run.py -m cache=uniform,bac")  # the same command asks for less
    assert "Missing, failed" not in page_of(folder)
    (folder / FILE).write_text("{")
    assert "Missing, failed" not in page_of(folder)


def test_the_page_loads_and_runs_nothing_of_others(folder: Path) -> None:
    page = page_of(folder)
    assert page.count("<script>") == 1
    assert re.search(r"default-src 'none'; script-src 'sha256-[\w+/=]+'; style-src", page)
    assert not re.search(r"<(img|iframe|link|object|embed)\b", page)
    assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", page)


def test_a_film_is_shown_where_no_discordant_seed_has_one(folder: Path) -> None:
    assert "<h2>Films</h2>" not in page_of(folder)
    film(folder / LIFT, 100002)
    page = page_of(folder)
    assert page.count("<video") == 1
    assert re.search(r"lift, seed 100002, none: success after \d+ steps</a>", page)
    for name in (KITCHEN, QUADRATIC):
        film(folder / name, 100003)  # lost by 10 steps
    page = page_of(folder)
    assert page.count("<video") == 2
    caption = r"kitchen, seed 100003, unaccelerated: success after \d+ steps; \d subtasks: \w+"
    assert re.search(caption, page)


def test_a_study_that_was_timed_together_has_its_speed_ups(folder: Path) -> None:
    label = "ddpm-100, uniform S = 20"
    found = {label: {"cpu_ratio": 4.5, "cpu_ratio_interval": [4.4, 4.6]}}
    timed = {"kitchen": {"machine": {"cpu": "Abacus", "threads": 1}, **found}}
    (folder / TOGETHER).write_text(json.dumps(timed))
    page = page_of(folder)
    assert "Success rate by measured speed-up on kitchen" in page
    assert "4.50x [4.40, 4.60]" in page
    assert "all arms in turn in one process, ratios of CPU times, Abacus" in page
    (folder / TOGETHER).write_text("[1]")
    assert run([str(folder)]) == 2


def test_an_index_links_every_study(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "b<i>/x"
    broken.mkdir(parents=True)
    index = write_site(ReportConfig(), tmp_path / "site", [folder, broken.parent])
    text = index.read_text()
    assert '<a href="starter/report.html">starter</a>' in text
    assert (tmp_path / "site/starter/arms.csv").is_file()
    assert "None of 3 arms on kitchen is shown non-inferior" in text
    assert "7 arms, 700 episodes" in text
    assert "b&lt;i&gt;" in text
    assert "not readable: the study must hold at least one evaluation" in text
    assert not (folder / "report").exists()


def test_the_index_finds_published_studies_and_those_of_this_folder(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "multirun/empty").mkdir(parents=True)
    folder.rename(tmp_path / "multirun/mine")
    monkeypatch.chdir(tmp_path)
    published = [path.name for path in studies_here()]
    assert published[-1] == "mine"
    assert {"reference.yaml", "frontier.yaml"} < set(published)
    monkeypatch.setattr("runners.report.build.studies_here", lambda: [Path("multirun/mine")])
    assert run(["--all"]) == 0
    assert capsys.readouterr().out == "site/index.html\n"
    assert Path("site/mine/report.html").is_file()
    monkeypatch.setattr("runners.report.build.studies_here", lambda: [])
    assert run(["--all"]) == 2
    assert "there is no study here" in capsys.readouterr().err
