"""The pages as a real Chromium draws them, on a desk and on a phone, by day and by night.

With SCREENSHOTS=FOLDER the pictures are kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runners import html, svg
from runners.report.build import write_report, write_site
from runners.report.colours import colours
from runners.report.forest import differences
from runners.report.scatter import success_by_speed
from runners.studies.comparisons import ReportConfig
from tests.helpers.browser import FACTS, OVERLAPS, ask, look, n_colours, shoot, with_browser
from tests.helpers.many_arms import many_arms
from tests.helpers.study_folder import (
    EVEN,
    KITCHEN,
    QUADRATIC,
    SLOWER,
    copy_starter,
    cut_off,
    film,
    time_it,
)

pytestmark = with_browser
WIDTHS = (1280, 390)
SCREEN = {1280: 800, 390: 844}  # heights
BOTTOM = "({lines: d.querySelector('.verdict').getBoundingClientRect().bottom})"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the starter study, timed, with films and a run that was cut off."""
    study = copy_starter(tmp_path_factory.mktemp("looks") / "starter")
    for name, ms in ((KITCHEN, 990.0), (SLOWER, 250.0), (QUADRATIC, 150.0), (EVEN, 152.0)):
        time_it(study / name, ms)
    for name in (KITCHEN, EVEN):
        film(study / name, 100003)
    cut_off(study)
    write_report(study, ReportConfig())
    return study / "report/report.html"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_no_label_lies_over_another(
    width: int, report: Path, tmp_path: Path
) -> None:
    too_wide, charts, shot = look(report, width, tmp_path)
    assert (too_wide, charts) == (0, 3 + 2 + 7)
    assert n_colours(shot) > 50
    assert ask(report, width, tmp_path, OVERLAPS) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_verdict_is_seen_without_scrolling(width: int, report: Path, tmp_path: Path) -> None:
    found = ask(report, width, tmp_path, BOTTOM)
    assert 0 < found["lines"] < SCREEN[width] / 2
    day = shoot(report, width, SCREEN[width], tmp_path)
    night = shoot(report, width, SCREEN[width], tmp_path, dark=True)
    assert day.read_bytes() != night.read_bytes()


def test_tables_sort_and_filter_and_commands_are_copied(report: Path, tmp_path: Path) -> None:
    """In a page that nothing was added to: its own script ran under its own policy."""
    sort = """(() => {
      const table = d.querySelector('table'), names = () =>
        [...table.tBodies[0].rows].map(row => row.cells[1].textContent.slice(0, 4));
      const button = table.tHead.rows[0].cells[1].querySelector('button'), before = names();
      button.click(); const up = names(); button.click();
      return {before, up, down: names(), copies: d.querySelectorAll('.line > button').length};
    })()"""
    found = ask(report, 1280, tmp_path, sort)
    assert found["before"] == ["0.83", "0.00", "0.49", "0.77"]
    assert found["up"] == ["0.00", "0.49", "0.77", "0.83"]
    assert found["down"] == found["up"][::-1]
    assert found["copies"] == 7  # one a run that says how it was made


@pytest.mark.parametrize("width", WIDTHS)
def test_charts_of_many_arms(width: int, tmp_path: Path) -> None:
    arms = many_arms(55)
    charts = [differences(arms, colours(arms), 0.05), success_by_speed(arms, colours(arms))]
    page = tmp_path / "many.html"
    page.write_text(html.page("Many", "", charts, style=svg.STYLE))
    found = ask(page, width, tmp_path, f"({{...{FACTS}, over: {OVERLAPS}}})")
    assert (found["over"], found["wide"]) == ([], 0)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_index_of_studies_fits(width: int, report: Path, tmp_path: Path) -> None:
    index = write_site(ReportConfig(), tmp_path / "site", [report.parents[1]])
    asked = f"({{...{FACTS}, links: [...d.querySelectorAll('a')].map(a => a.textContent)}})"
    found = ask(index, width, tmp_path / "look", asked)
    assert (found["wide"], json.dumps(found["links"])) == (0, '["starter"]')
    shoot(index, width, SCREEN[width], tmp_path / "look")
