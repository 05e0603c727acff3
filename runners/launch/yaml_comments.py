"""The settings of a YAML file of conf/, with the comments that explain them.

The files are ours and simple: a setting a line, its comment behind it, blocks by indentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LINE = re.compile(
    r"^(?P<indent> *)(?P<key>[\w.]+):(?: +(?P<value>[^#\n]*?))?(?: +# *(?P<comment>.*))?$"
)
HIDDEN = ("defaults", "hydra")  # of conf/config.yaml: not settings of ours


class Setting(NamedTuple):
    """One line: `cache.steps`, `20`, what it does."""

    key: str
    value: str
    comment: str


def settings_in(path: Path, prefix: str = "") -> Iterator[Setting]:
    """The settings of a file in order, those of blocks by their full names.

    Args:
        path: of the YAML.
        prefix: the group that it is of, `cache`, before each name.

    Example:
        >>> next(settings_in(Path("conf/cache/uniform.yaml"), "cache")).key
        'cache.name'
    """
    blocks: list[tuple[int, str]] = [(-1, prefix)] if prefix else [(-1, "")]
    for line in path.read_text().splitlines():
        found = LINE.match(line)
        if not found:
            continue
        depth = len(found["indent"])
        while blocks[-1][0] >= depth:
            blocks.pop()
        key = ".".join(filter(None, (blocks[-1][1], found["key"])))
        if key.partition(".")[0] not in HIDDEN:
            yield Setting(key, found["value"] or "", found["comment"] or "")
        if not found["value"]:
            blocks.append((depth, key))


def about(path: Path) -> str:
    """What a choice is: the comment of its name, or the file's first comment."""
    text = path.read_text()
    for setting in settings_in(path):
        if setting.key == "name" and setting.comment:
            return setting.comment
    lines = (line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    return next((line for line in lines if not line.startswith("@")), "")
