"""What was measured beside the study's runs, in results/studies/frontier/, and its tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runners.formatting import NOTHING, changes, p_value, rates
from runners.store.folder import dump
from runners.store.published import STUDIES
from skipstep.whole_files import write_whole

RESULTS, STUDY = Path("results"), "frontier"


def measured(name: str) -> dict[str, Any]:
    """{task: what was measured} of latency.json, spread.json or averaging.json."""
    path = RESULTS / STUDIES / STUDY / name
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def keep_measured(name: str, task: str, found: Mapping[str, Any]) -> None:
    """Put what was measured of one task beside what is there of the others."""
    folder = RESULTS / STUDIES / STUDY
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, dump({**measured(name), task: found}))


def averaged(task: str) -> Iterator[str]:
    """How often the mean of several samples of a query succeeds."""
    found = measured("averaging.json").get(task, {})
    if not found:
        return
    yield (
        "Acting by the mean of several samples of a query, whose noises differ, against one sample "
        "of the unaccelerated policy on the same seeds (a query costs as many times as much):"
    )
    yield ""
    yield "| samples | success | seeds | against unaccelerated | wins / losses | p |"
    yield "|---|---|---|---|---|---|"
    for name, row in found.items():
        n, versus = row["episodes"], row["against the plain policy"]
        judged = [NOTHING] * 3
        if versus:
            judged = [
                changes(versus["difference"], versus["difference_interval"]),
                f"{versus['wins']} / {versus['losses']}",
                p_value(versus["p_value"]),
            ]
        cells = [name, rates(row["successes"] / n, row["interval"]), str(n), *judged]
        yield f"| {' | '.join(cells)} |"
    yield ""


def spread(task: str) -> Iterator[str]:
    """How much the actions of a sampler differ from noise to noise."""
    found = measured("spread.json").get(task, {})
    if not found:
        return
    yield (
        f"How much the actions of {found['noises']} noises differ on {found['queries']} "
        "observations, and how far their mean is from the unaccelerated policy's (root mean "
        "square, normalised action units):"
    )
    yield ""
    yield "| sampler | spread | shift of the mean |"
    yield "|---|---|---|"
    rows = [(name, row) for name, row in found.items() if isinstance(row, dict)]
    for name, row in sorted(rows, key=lambda item: float(item[1]["spread"])):
        yield f"| {name} | {row['spread']:.3f} | {row['shift']:.3f} |"
    yield ""
