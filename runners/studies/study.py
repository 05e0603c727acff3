"""A study's folder as runs, with the strata they belong to and the baselines they have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..store.published import published
from ..store.reading import Run, is_baseline, is_evaluation, is_run, read_run
from .arms import STRATUM, labels_of, natural, strata_of

LIST = ".yaml"
CONDITIONS = (*STRATUM, "policy_batch", "threads", "device", "engine")


@dataclass(frozen=True)
class Study:
    """All evaluations of a study, by stratum; the unaccelerated first, then by name, 5 before 10.

    Attributes:
        folder: with its runs, or with what a published one has besides them.
        labels: {run's name: what sets its method apart from the study's other methods}.
        strata: {run's name: its task, and the checkpoint and noise seed where they differ}.
        others: folders of other runners, which are no part of a report.
    """

    folder: Path
    runs: list[Run]
    labels: dict[str, str]
    strata: dict[str, str]
    others: list[str]

    @property
    def whole(self) -> list[Run]:
        return [run for run in self.runs if run.whole]

    def baseline(self, run: Run) -> Run | None:
        """The unaccelerated run under the same conditions; None for itself and where there is none.

        A result that names no baseline may have been written before its baseline's.
        """
        if is_baseline(run):
            return None
        named = (run.result.get("baseline") or {}).get("folder")
        for other in self.whole:
            if other.name == named:
                return other
        fitting = [
            other
            for other in self.whole
            if is_baseline(other) and other.of(CONDITIONS) == run.of(CONDITIONS)
        ]
        return fitting[0] if len(fitting) == 1 else None


def read_study(path: Path) -> Study:
    """Read every run of a study: of a folder, or of a list, results/studies/<study>.yaml.

    Raises:
        UserError: it is not there, or holds no evaluation.
    """
    found = runs_of(path)
    runs = [run for run in found if is_evaluation(run)]
    others = [run.name for run in found if not is_evaluation(run)]
    if not runs:
        raise UserError(f"the study must hold at least one evaluation, there is none in {path}")
    strata = strata_of(runs)
    labels = labels_of(runs, strata)
    runs.sort(key=lambda r: (strata[r.name], not is_baseline(r), natural(labels[r.name]), r.name))
    folder = path.with_suffix("") if path.suffix == LIST else path
    return Study(folder, runs, labels, strata, others)


def runs_of(path: Path) -> list[Run]:
    """By name, those of other runners too.

    Raises:
        UserError: there is neither a folder nor a list.
    """
    if path.suffix == LIST:
        return [run.run() for run in published(path)]
    if not path.is_dir():
        raise UserError(
            f"the study must be a folder with runs or a list of them, there is none at {path}"
        )
    return [read_run(folder) for folder in sorted(path.iterdir()) if is_run(folder)]
