"""The table of what loads from where names tests that are there."""

from __future__ import annotations

import re

from tests.helpers.places import PROJECT

PAGE = PROJECT / "docs/how-to/bring-a-checkpoint.md"


def test_every_row_names_its_test() -> None:
    table = PAGE.read_text().split("## What loads from where")[1].split("\n\n")[1]
    rows = table.splitlines()[2:]
    assert len(rows) >= 6
    for row in rows:
        named = re.findall(r"tests/[\w/]+\.py", row)
        assert named, row
        for name in named:
            assert (PROJECT / name).is_file(), name
