"""Generated tables of the documentation against the studies that they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.study_folder import SLOWER, copy_starter
from tools.docs_check import PROJECT, main

COMMAND = "python -m tools.docs_check --table success starter --task kitchen"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one study and one page, whose table is right."""
    copy_starter(tmp_path / "starter")
    (tmp_path / "docs/results").mkdir(parents=True)
    page = f"# A page\n\n<!-- generated: {COMMAND} -->\n<!-- end -->\n\nWords after it.\n"
    (tmp_path / "docs/results/page.md").write_text(page)
    assert main(["--write"], tmp_path) == 0
    return tmp_path


def test_the_documentation_says_what_its_studies_say() -> None:
    assert main([], PROJECT) == 0


def test_a_table_is_put_in_its_place(root: Path) -> None:
    text = (root / "docs/results/page.md").read_text()
    assert "uniform, 20 steps, quadratic | 0.77 [0.68, 0.84] | 77 of 100 |" in text
    assert "lift" not in text
    assert text.endswith("|\n\n<!-- end -->\n\nWords after it.\n")
    assert main([], root) == 0


def test_a_number_that_differs_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = root / "docs/results/page.md"
    right = page.read_text()
    page.write_text(right.replace("77 of 100", "78 of 100"))
    assert main([], root) == 1
    said = capsys.readouterr().err
    assert "docs/results/page.md: -| 4 uniform, 20 steps, quadratic" in said
    assert "docs/results/page.md: +| 4 uniform, 20 steps, quadratic" in said
    assert page.read_text() != right
    assert main(["--write"], root) == 0
    assert page.read_text() == right


def test_a_study_that_changed_is_noticed(root: Path) -> None:
    episodes = root / "starter" / SLOWER / "episodes.jsonl"
    episodes.write_text(episodes.read_text().replace('"success": true', '"success": false', 1))
    assert main([], root) == 1


def test_a_long_line_is_named_and_left_to_its_author(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = root / "docs/results/page.md"
    fits, table, address = "x" * 120, "| " + "x" * 130 + " |", "See https://a.org/" + "x" * 130
    right = "\n".join((page.read_text(), fits, table, address))
    page.write_text(right)
    assert main([], root) == 0
    page.write_text(f"{right}\n{fits}x")
    assert main(["--write"], root) == 1
    number = len(right.splitlines()) + 1
    said = f"docs/results/page.md:{number}: a line has at most 120 characters, got 121\n"
    assert capsys.readouterr().err == said
    assert page.read_text() == f"{right}\n{fits}x"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rm -r starter", "made by python -m and a module here"),
        ("python -m http.server", "made by python -m and a module here"),
        ("python -m tools.docs_check --table success nowhere", "there is none at nowhere"),
        ("python -m tools.docs_check --table nothing starter", "invalid choice: 'nothing'"),
        ("python -m tools.docs_check --table cost starter --task none", "--task must be a task"),
        ("python -m tools.docs_check --table cost", "--table needs a study"),
    ],
)
def test_a_command_that_makes_no_table_is_a_mistake(
    command: str, said: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = root / "docs/results/page.md"
    page.write_text(page.read_text().replace(COMMAND, command))
    assert main([], root) == 2
    assert said in capsys.readouterr().err
    assert (root / "starter").exists()


def printed(table: str, study: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["--table", table, f"{PROJECT}/results/studies/{study}.yaml"], PROJECT) == 0
    return capsys.readouterr().out.splitlines()


def test_tables_of_single_pages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    delays = printed("delays", "realtime", capsys)
    assert delays[0] == (
        "| control delay, steps | kitchen, none | kitchen, uniform | lift, none | lift, uniform |"
    )
    assert delays[4] == "| 2 | not run | 42 of 50 | 50 of 50 | 50 of 50 |"
    scores = printed("scores", "starter", capsys)
    assert scores[2].startswith("| none | kitchen | 0.516 | 0.98 | 0.97 | 0.83 | 0.83 |")
    against = printed("quantised", "quantised", capsys)
    assert len(against) == 2 + 6  # one for each arm with a quantisation
    assert "| bac, duquant W8A8 | kitchen | bac | -0.01 [-0.05, +0.02] | 3 / 6 | 0.508 |" in against
