"""Time, motion and energy in a study's report: tables, and columns of arms.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..formatting import NOTHING
from ..studies.comparisons import Arm
from ..studies.embodied import (
    IN_PIXELS,
    METRICS,
    SUBTASKS,
    Mean,
    PairedMean,
    differences,
    means,
    metrics_of,
    spread,
)
from .charts import named
from .tables import Table

CAPTION = (
    "Means with 95 % intervals (Student's t), over all episodes that ran to their end; of those "
    "that succeeded for the time to success. Path and jerk: of the end effector, and of the arm's "
    "joints; jerk is the mean square of the third derivative. Jump: of the action, in its units, "
    "from the end of one chunk to the beginning of the next. Energy: sum of |force x velocity| x "
    f"time step over the actuators. {NOTHING}: not measured, as in runs of an older version."
)
PAIRED_CAPTION = (
    "Mean of the arm minus the unaccelerated one on the same seeds, with a 95 % interval "
    "(Student's t, each by itself); the time to success on seeds that both solved, in brackets "
    "how many. Negative: quicker, shorter, smoother, cheaper. "
    f"{NOTHING}: one of the two was not measured."
)
SUBTASK_CAPTION = (
    "Seconds until a subtask was completed, over the episodes that completed it; paired with the "
    "unaccelerated arm on the seeds that both completed, in brackets how many."
)


def tables(arms: Sequence[Arm]) -> list[Table]:
    """Means and paired differences of a stratum; none where no arm was measured."""
    found = [means(arm.run.ok.values()) for arm in arms]
    paired = [_paired(arm) for arm in arms]
    if not any(found):
        return []
    metrics = metrics_of(name for m in found for name in m)
    header = [f"{title}, {unit}" if unit else title for title, unit in metrics.values()]
    pairs = list(zip(arms, paired, strict=True))
    compared = [(arm, gaps) for arm, gaps in pairs if arm.versus]
    shown = [Table(["arm", *header], _rows(arms, [_means(m, metrics) for m in found]), CAPTION)]
    if compared:
        rows = _rows([a for a, _ in compared], [_gaps(gaps, metrics) for _, gaps in compared])
        shown.append(Table(["difference", *header], rows, PAIRED_CAPTION))
    if subtasks := subtasks_of(arms):
        cells = [
            [
                f"{mean}; {gap}" if gap != NOTHING else mean
                for mean, gap in zip(_means(m, subtasks), _gaps(g, subtasks), strict=True)
            ]
            for m, g in zip(found, paired, strict=True)
        ]
        names = [name.partition("/")[2] for name in subtasks]
        shown.append(Table(["time to, s", *names], _rows(arms, cells), SUBTASK_CAPTION))
    return shown


def columns(arm: Arm, further: Sequence[str]) -> dict[str, Any]:
    """An arm's numbers, flat, `further` after those of all tasks; what it has not got is None."""
    found, paired = means(arm.run.ok.values()), _paired(arm)
    cells: dict[str, Any] = {}
    for name in (*METRICS, *further):
        mean, gap = found.get(name), paired.get(name)
        low, high = (mean and mean.interval) or (None, None)
        gap_low, gap_high = (gap and gap.interval) or (None, None)
        cells |= {
            name: mean.mean if mean else None,
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_n": mean.n if mean else None,
            f"{name}_difference": gap.difference if gap else None,
            f"{name}_difference_low": gap_low,
            f"{name}_difference_high": gap_high,
            f"{name}_n_paired": gap.n if gap else None,
        }
    return cells


def subtasks_of(arms: Sequence[Arm]) -> list[str]:
    """The subtasks that some episode of theirs completed."""
    return sorted(name for name in _measured(arms) if name.startswith(f"{SUBTASKS}/"))


def further_of(arms: Sequence[Arm]) -> list[str]:
    """What only some tasks have: subtasks, and what is measured in pixels."""
    there = _measured(arms)
    return [*subtasks_of(arms), *(name for name in IN_PIXELS if name in there)]


def _measured(arms: Sequence[Arm]) -> set[str]:
    return {name for arm in arms for name in means(arm.run.ok.values())}


def _paired(arm: Arm) -> dict[str, PairedMean]:
    if not arm.versus:
        return {}
    return differences(arm.run.ok.values(), arm.versus.baseline.ok.values())


def _rows(arms: Sequence[Arm], cells: Sequence[list[str]]) -> list[tuple[str, list[str]]]:
    return [(named(arm), row) for arm, row in zip(arms, cells, strict=True)]


def _means(found: Mapping[str, Mean], names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    return [spread(m.mean, m.interval) if (m := found.get(name)) else NOTHING for name in names]


def _gaps(found: Mapping[str, PairedMean], names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    return [
        NOTHING
        if not (gap := found.get(name))
        else spread(gap.difference, gap.interval, "+")
        + (f" ({gap.n})" if name.startswith("time_to_") else "")
        for name in names
    ]
