"""Tables of single pages of the documentation, from a study's arms."""

from __future__ import annotations

from collections.abc import Sequence

from runners.formatting import NOTHING, changes, p_value
from runners.metrics import paired
from runners.report.tables import Table
from runners.studies.comparisons import Arm
from runners.studies.embodied import METRICS, differences, digits, means, spread

JOINTS = ("mean_chunk_jump", "mean_squared_joint_jerk_rad2_s6")  # what joining chunks is for


def quantised(arms: Sequence[Arm]) -> Table:
    """Every quantised arm against the arm with the same cache and no quantisation."""
    header = ["arm", "task", "against", "difference", "wins / losses", "p"]
    plain = {_cache(arm): arm for arm in arms if arm.run.config["quant"]["name"] == "none"}
    rows = []
    for arm in arms:
        base = plain.get(_cache(arm))
        if base is None or base is arm:
            continue
        if versus := paired(arm.run.success, base.run.success):
            cells = [
                arm.stratum,
                base.label,
                changes(versus.difference, versus.difference_interval),
                f"{versus.wins} / {versus.losses}",
                p_value(versus.p_value),
            ]
            rows.append((arm.label, cells))
    return Table(header, rows)


def _cache(arm: Arm) -> tuple[str, str]:
    return arm.stratum, str(arm.run.config["cache"])


def scores(arms: Sequence[Arm]) -> Table:
    """Mean scores, and the shares that the task itself reports (p_1: at least one subtask)."""
    names = sorted({name for arm in arms for name in arm.metrics})
    rows = []
    for arm in arms:
        found = [arm.metrics.get(name) for name in names]
        cells = [f"{x[0] / max(x[1], 1):.2f}" if x else NOTHING for x in found]
        rows.append((arm.label, [arm.stratum, f"{arm.mean_score:.3f}", *cells]))
    return Table(["arm", "task", "mean score", *names], rows)


def delays(arms: Sequence[Arm]) -> Table:
    """Successes by control delay: a column per task and method."""
    found = {(arm.delay, arm.stratum, arm.method): arm for arm in arms}
    methods = sorted({(stratum, method) for _, stratum, method in found})
    rows = []
    for delay in sorted({delay for delay, _, _ in found}):
        there = [found.get((delay, *method)) for method in methods]
        cells = [f"{arm.n_success} of {arm.n}" if arm else "not run" for arm in there]
        rows.append((f"{delay:g}", cells))
    header = [f"{stratum}, {method}" for stratum, method in methods]
    return Table(["control delay, steps", *header], rows)


def joins(arms: Sequence[Arm]) -> Table:
    """Arms with delays: successes, jumps between chunks and joint jerk, with and without `warm`.

    An arm with `warm` is compared with the one of the same delay without, seed by seed.
    """
    names = [name for name in JOINTS if any(name in means(a.run.ok.values()) for a in arms)]
    plain = {(a.stratum, a.delay): a for a in arms if not a.run.config.get("warm")}
    header = ["arm", "task", "control delay, steps", "success", "against without", "wins / losses"]
    header += [word for n in names for word in (METRICS[n][0], "against without")]
    rows = []
    for arm in sorted(arms, key=lambda a: (a.stratum, a.delay, bool(a.run.config.get("warm")))):
        base = plain.get((arm.stratum, arm.delay))
        other = base if base is not arm else None
        versus = paired(arm.run.success, other.run.success) if other else None
        cells = [arm.stratum, f"{arm.delay:g}", f"{arm.n_success} of {arm.n}", *[NOTHING] * 2]
        if versus:
            change = changes(versus.difference, versus.difference_interval)
            cells[-2:] = [change, f"{versus.wins} / {versus.losses}"]
        own = means(arm.run.ok.values())
        gaps = differences(arm.run.ok.values(), other.run.ok.values()) if other else {}
        for name in names:
            gap = gaps.get(name)
            cells.append(digits(own[name].mean) if name in own else NOTHING)
            cells.append(spread(gap.difference, gap.interval, "+") if gap else NOTHING)
        rows.append((arm.label, cells))
    return Table(header, rows)
