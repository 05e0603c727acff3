"""What campaigns found: one JSON file a campaign, whose rows of disjoint ranges of seeds add up."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skipstep.whole_files import write_whole

RESULTS = Path(__file__).resolve().parents[2] / "results/chaos"
MOST_FINDINGS = 20  # that a row keeps in words


def seeds(text: str) -> tuple[int, int]:
    """Of a command line: "a:b" is from a to before b."""
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"must be a:b with a below b, got {text!r}")
    return int(first), int(last)


@dataclass
class Row:
    """Trials of one kind over a range of seeds.

    Attributes:
        kind: what was damaged.
        first, last: the seeds, from first to before last.
        outcomes: {outcome: how often}; "finding" is what must not be.
        findings: in words, each with its seed.
        most: {quantity: the largest that was seen}.
    """

    kind: str
    first: int
    last: int
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    most: dict[str, float] = field(default_factory=dict)

    def count(self, seed: int, outcome: str, said: str = "", **quantities: float) -> None:
        """One trial's."""
        self.outcomes[outcome] += 1
        if outcome == "finding" and len(self.findings) < MOST_FINDINGS:
            self.findings.append(f"seed {seed}: {said}")
        for name, value in quantities.items():
            self.most[name] = round(max(value, self.most.get(name, 0.0)), 3)

    @property
    def trials(self) -> int:
        return sum(self.outcomes.values())


def played(rows: Iterable[Row], last: int) -> list[Row]:
    """Those that have trials, of seeds to before `last`."""
    found = [row for row in rows if row.trials]
    for row in found:
        row.last = last
    return found


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    rows = json.loads(path.read_text())
    return [Row(**{**row, "outcomes": Counter(row["outcomes"])}) for row in rows]


def keep(campaign: str, rows: Iterable[Row], folder: Path = RESULTS) -> Path:
    """Add rows to a campaign's file.

    Raises:
        ValueError: seeds that are there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{campaign}.json"
    known, new = read(path), list(rows)
    for row in new:
        for other in known:
            if row.kind == other.kind and row.first < other.last and other.first < row.last:
                raise ValueError(
                    f"seeds of {row.kind} must be new, got {row.first}:{row.last} beside "
                    f"{other.first}:{other.last} of {path}"
                )
    rows_ = sorted([*known, *new], key=lambda row: (row.kind, row.first))
    lines = ",\n".join(json.dumps(plain(row)) for row in rows_)
    write_whole(path, f"[\n{lines}\n]\n")
    return path


def plain(row: Row) -> dict[str, Any]:
    """As JSON has it."""
    return {**vars(row), "outcomes": dict(sorted(row.outcomes.items()))}


def added(rows: Sequence[Row]) -> list[Row]:
    """One row a kind: the ranges of seeds are put together."""
    found: dict[str, Row] = {}
    for row in rows:
        total = found.setdefault(row.kind, Row(row.kind, row.first, row.last))
        total.first, total.last = min(total.first, row.first), max(total.last, row.last)
        total.outcomes.update(row.outcomes)
        total.findings.extend(row.findings)
        for name, value in row.most.items():
            total.most[name] = max(value, total.most.get(name, 0.0))
    return list(found.values())


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown, one line a kind and their sum."""
    totals = added(rows)
    outcomes = sorted({name for row in totals for name in row.outcomes} | {"finding"})
    most = sorted({name for row in totals for name in row.most})
    head = ["kind", "seeds", "trials", *outcomes, *(f"most {name}" for name in most)]
    lines = [_line(head), "|" + " --- |" * len(head)]
    for row in totals:
        counts = [str(row.outcomes.get(name, 0)) for name in outcomes]
        quantities = [_said(row.most, name) for name in most]
        seeds = f"{row.first}:{row.last}"
        lines.append(_line([row.kind, seeds, str(row.trials), *counts, *quantities]))
    if len(totals) > 1:
        sums = [str(sum(row.outcomes.get(name, 0) for row in totals)) for name in outcomes]
        trials = str(sum(row.trials for row in totals))
        lines.append(_line(["all", "", trials, *sums, *("" for _ in most)]))
    return lines


def _said(most: Mapping[str, float], name: str) -> str:
    return f"{most[name]:.3g}" if name in most else "-"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
