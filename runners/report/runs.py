"""What ran in a study: its jobs, the commands that make them, and in which versions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..store.files import or_nothing, read_overrides
from ..store.names import OVERRIDES
from ..store.reading import FINISHED, UNREADABLE, Run
from ..studies.asked import asked_for
from ..studies.comparisons import Arm
from ..studies.study import Study
from .tables import Table


def jobs(study: Study) -> Table:
    """What was asked for and did not finish, or cannot be compared."""
    rows = []
    for run in study.runs:
        done = sum(seed in run.episodes for seed in run.seeds)
        if not run.whole:
            known = run.config and run.status != UNREADABLE
            state = [run.status, f"{done} of {len(run.seeds)}" if known else ""]
            rows.append((run.name, [*state, run.error, command(run)]))
        elif run.n_errors:
            errors = [f"seed {e['seed']}: {e['error']}" for e in run.result["errors"]]
            state = [f"errors: {run.n_errors}", f"{done} of {len(run.seeds)}"]
            rows.append((run.name, [*state, "; ".join(errors), command(run)]))
        elif run.status != FINISHED:  # its result is whole; what came after it was not
            rows.append((run.name, [run.status, f"{done} of {len(run.seeds)}", run.error, ""]))
    begun = {run.name for run in study.runs} | set(study.others)
    rows += [
        (name, ["not started", "", "", line])
        for name, line in asked_for(study.folder).items()
        if name not in begun
    ]
    rows += [
        (run.name, ["no baseline", "", "", str((run.result["baseline"] or {}).get("command", ""))])
        for run in study.whole
        if run.result["baseline"] and study.baseline(run) is None
    ]
    return Table(
        ["job", "state", "episodes", "error", "what, or how to go on"],
        rows,
        "The same command goes on where a run stopped. A run with missing seeds enters no other "
        "table: the first episodes to end are the successful ones.",
    )


def commands(study: Study) -> list[str]:
    """A line per run, as it was typed."""
    found = (command(run) for run in study.runs)
    return list(dict.fromkeys(line for line in found if line))


def command(run: Run) -> str:
    """From its result, or from what Hydra noted before the run began."""
    if run.result:
        return str(run.result["command"])
    words = or_nothing(read_overrides, run.folder / OVERRIDES)
    return shlex.join(["python", "run.py", *words]) if words else ""


def versions(arms: Sequence[Arm]) -> Table:
    """Of the packages that the runs had; where they differ, which arm had what."""
    found: dict[str, dict[str, list[str]]] = {}
    for arm in arms:
        for name, version in arm.run.result["versions"].items():
            found.setdefault(name, {}).setdefault(version, []).append(str(arm.number))
    return Table(
        ["of", "version"],
        [
            (
                name,
                [
                    "; ".join(
                        v if len(had) == 1 else f"{v} (arms {', '.join(a)})" for v, a in had.items()
                    )
                ],
            )
            for name, had in found.items()
        ],
    )
