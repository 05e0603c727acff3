"""The documentation's site: its pages, and that every link leads somewhere in it."""

from __future__ import annotations

import posixpath
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.helpers.places import PROJECT
from tools.site.hooks import COPIES, LINK, linked, place_of, rewritten
from tools.site.pages import MADE

PAGES = sorted(p.relative_to(PROJECT / "docs").as_posix() for p in PROJECT.glob("docs/**/*.md"))


def test_every_link_leads_to_a_page_or_a_copy() -> None:
    there = {p.relative_to(PROJECT / "docs").as_posix() for p in PROJECT.glob("docs/**/*.*")}
    there |= {*MADE, *(f"{COPIES}/{path}" for path in linked())}
    lost = []
    for page in [*PAGES, "index.md"]:
        source = PROJECT / ("README.md" if page == "index.md" else f"docs/{page}")
        text = rewritten(source.read_text(), page)
        for match in LINK.finditer(text):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[1]))
            if place not in there:
                lost.append(f"{page}: {match[1]}")
    assert not lost


def test_copies_are_files_outside_of_the_documentation() -> None:
    found = linked()
    assert "CONTRIBUTING.md" in found
    assert any(path.endswith("report.html") for path in found)
    assert not [path for path in found if path.startswith("docs/")]
    assert place_of("docs/decisions") == "decisions.md"
    assert place_of("conf/runner") == "settings.md"
    assert place_of("nowhere") is None


def test_every_page_is_in_the_table_of_contents() -> None:
    config = yaml.safe_load((PROJECT / "mkdocs.yml").read_text())
    listed = {page for section in config["nav"] for page in _pages(section)}
    assert listed == {*MADE, *(p for p in PAGES if not p.startswith("decisions/"))}


def _pages(node: object) -> list[str]:
    if isinstance(node, str):
        return [node]
    values = node.values() if isinstance(node, dict) else node
    assert not isinstance(values, str)
    return [page for value in values for page in _pages(value)]  # type: ignore[attr-defined]


def test_settings_and_library_are_complete() -> None:
    settings, library = MADE["settings.md"](), MADE["library.md"]()
    for name in ("n_episodes", "cache.steps", "calibration.n_queries", "warm.from", "task.env"):
        assert f"| `{name}` |" in settings
    for name in ("accel.accelerated", "policies.load_policy", "envs.make_task"):
        assert f"### {name}\n" in library


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs mkdocs-material: make docs")
def test_it_is_built(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "skipstep" in (tmp_path / "index.html").read_text()
    assert (tmp_path / COPIES / "results/studies/reference/report/report.html").exists()
