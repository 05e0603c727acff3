"""One run against its study's unaccelerated arm, judged as the study's report judges it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..metrics import Paired, paired
from ..statistics import MARGIN, holm, loss_detected, noninferiority
from ..store.reading import UNREADABLE
from .study import read_study


def verdict(folder: Path, result: Paired) -> dict[str, Any]:
    """Two answers about one comparison: is a loss detected, and is it non-inferior.

    A p-value is adjusted over the study as it is now (Holm), so another run that joins the study
    changes it: a finished run is judged anew whenever it is shown.

    Args:
        folder: of the run, in its study.
        result: the run against its baseline.

    Returns:
        {"p_holm", "n_comparisons", "loss_detected", "margin", "noninferior"}; the first three are
        None where another run of the study cannot be read.
    """
    judged = noninferiority(result.wins, result.losses, result.n, MARGIN)
    found: dict[str, Any] = {"p_holm": None, "n_comparisons": None, "loss_detected": None}
    others = _of_the_others(folder)
    if others is not None:
        p_values = [result.p_value, *others]
        p_holm = holm(p_values)[0]
        found = {
            "p_holm": p_holm,
            "n_comparisons": len(p_values),
            "loss_detected": loss_detected(result.difference, p_holm),
        }
    return {**found, "margin": MARGIN, "noninferior": judged.shown}


def _of_the_others(folder: Path) -> list[float] | None:
    """McNemar's p-values of the study's other whole runs that have a baseline.

    None where one cannot be read, and so may be a comparison.
    """
    try:
        study, found = read_study(folder.parent), []
    except UserError:
        return None
    others = (run for run in study.runs if run.name != folder.name)
    if any(run.status == UNREADABLE and not run.whole for run in others):
        return None
    for run in study.whole:
        baseline = study.baseline(run) if run.name != folder.name else None
        result = paired(run.success, baseline.success) if baseline else None
        found += [result.p_value] if result else []
    return found
