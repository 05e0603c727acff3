"""Every file that a page links to is there, and every heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.frontier.picture import OUT, picture
from tests.helpers.places import PROJECT

PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(PROJECT.glob("docs/**/*.md")),
    *sorted(PROJECT.glob("checkpoints/*/card.md")),
    *sorted(PROJECT.glob("benchmarks/*.md")),
]
CODE = re.compile(r"^```.*?^```|^    .*?$|`[^`\n]*`", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(PROJECT), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_the_readme_links_every_file_that_it_names() -> None:
    text = CODE.sub("", (PROJECT / "README.md").read_text())
    bare = re.sub(r"\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)|\[[^\]]*\]\([^)]*\)", "", text)
    bare = re.sub(r"<!--.*?-->", "", bare, flags=re.S)
    assert not re.findall(r"\b(?:docs|conf|checkpoints)/\S+", bare)
    assert len(text.splitlines()) <= 130


def test_the_picture_is_what_the_study_says() -> None:
    assert (PROJECT / OUT).read_text() == picture("kitchen")
    with pytest.raises(ValueError, match="no arm of tool_hang was timed: python -m"):
        picture("tool_hang")
