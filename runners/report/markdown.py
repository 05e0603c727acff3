"""Tables and lines in Markdown, whatever texts are in them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .tables import Table


def markdown_table(table: Table) -> list[str]:
    """Its lines, without the caption."""
    cells = [table.header, ["---"] * len(table.header), *([n, *row] for n, row in table.rows)]
    return ["| " + " | ".join(map(_cell, row)) + " |" for row in cells]


def _cell(text: str) -> str:
    return plain_markdown(text).replace("|", "\\|")


def plain_markdown(text: str) -> str:
    r"""A text in which Markdown sees neither HTML nor links, pictures, code or lines.

    Example:
        >>> print(plain_markdown("p < 0.001, <b>, [a](b)"))
        p < 0.001, \<b>, [a]\(b)
    """
    found = re.sub(r"<(?=[A-Za-z/!?])", r"\\<", " ".join(text.split("\n")))
    return found.replace("](", "]\\(").replace("`", "\\`")


def fenced(lines: Sequence[str], language: str) -> list[str]:
    """Lines as code, in a fence that none of them closes."""
    longest = max((len(ticks) for line in lines for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + language, *lines, fence]
