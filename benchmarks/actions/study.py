"""Run the arms of one sampler; rows that were made on the same ground are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from accel.plans.flops import equivalent_steps
from runners.jobs.settings import digest
from runners.store.atomic import write_whole
from runners.store.folder import dump

from .arms import ARMS
from .candidates import Budget, Candidate, flops_share
from .choose import Chooser
from .measure import Program, answers, scores, unaccelerated
from .questions import Ground
from .speed import PLAIN, latencies

Row = dict[str, Any]
SCORES = "action_error.json"


@dataclass
class Table:
    """The rows so far, written whenever one is added or timed.

    Attributes:
        folder: of the results.
        rows: by "sampler S=10 arm".
        about: what they were made on.
    """

    folder: Path
    rows: dict[str, Row] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        write_whole(self.folder / SCORES, dump({"about": self.about, "rows": self.rows}))


def key_of(sampler: str, steps: int | None, arm: str) -> str:
    return f"{sampler} {arm}" if steps is None else f"{sampler} S={steps} {arm}"


def basis_of(ground: Ground) -> str:
    """Hash of what a row's errors follow from, besides its arm."""
    reported = ground.reporting
    return digest(
        {
            "calibration": ground.calibration.digest(),
            "choosing": ground.choosing.queries.seeds.tolist(),
            "queries": [reported.queries.seeds.tolist(), reported.queries.numbers.tolist()],
            "noises": reported.others.shape[1],
        }
    )


def run_sampler(
    ground: Ground, steps: Sequence[int], arms: Sequence[str], rounds: int, table: Table
) -> None:
    """Errors of every arm at every S, then their latencies; what the table holds is skipped."""
    basis = basis_of(ground)
    for name, values in unaccelerated(ground.reporting).items():
        key = key_of(ground.name, None, name)
        if table.rows.get(key, {}).get("basis") != basis:
            row: Row = {"sampler": ground.name, "steps": None, "arm": name, "family": name}
            row |= {"settings": "", "flops_share": 1.0, "basis": basis, **values}
            table.rows[key] = row
    table.save()
    for budget_steps in steps:
        budget = Budget(ground.policy, ground.calibration, budget_steps, ground.choosing)
        mine = {arm: table.rows.get(key_of(ground.name, budget_steps, arm), {}) for arm in ARMS}
        mine = {arm: row for arm, row in mine.items() if row.get("basis") == basis}
        known = {arm: row["settings"] for arm, row in mine.items()}
        chooser = Chooser(budget, ground.choosing, known)
        bar = tqdm(arms, desc=f"{ground.name} S={budget_steps}", unit="arm", disable=None)
        for arm in bar:
            if arm in mine:
                continue
            candidate = chooser.best(arm)
            if candidate is not None:
                row = _row(ground, budget_steps, arm, candidate, chooser) | {"basis": basis}
                table.rows[key_of(ground.name, budget_steps, arm)] = row
                table.save()
        if rounds:
            _time(ground, budget_steps, arms, rounds, table, chooser.best)


def _row(ground: Ground, steps: int, arm: str, candidate: Candidate, chooser: Chooser) -> Row:
    program, asked = candidate.program, ground.reporting
    actions, computed = answers(program, asked.obs, asked.noise())
    row: Row = {
        "sampler": ground.name,
        "steps": steps,
        "arm": arm,
        "family": ARMS[arm].family,
        "settings": candidate.words,
        "flops_share": flops_share(program, ground.policy, computed),
        "equivalent_steps": equivalent_steps(program.policy, computed),
        "plan": program.plan.digest() if program.plan else None,
        "choosing_error": chooser.error(candidate),
    }
    return row | scores(actions, asked)


def _time(
    ground: Ground,
    steps: int,
    arms: Sequence[str],
    rounds: int,
    table: Table,
    best: Callable[[str], Candidate | None],
) -> None:
    """One time per plan: arms that share one share it."""
    rows = {arm: table.rows.get(key_of(ground.name, steps, arm)) for arm in arms}
    missing = {
        arm: row for arm, row in rows.items() if row and row.get("latency_rounds", 0) < rounds
    }
    programs: dict[str, Program] = {}
    for arm, row in missing.items():
        candidate = best(arm)
        assert candidate is not None
        programs.setdefault(row["plan"] or row["settings"], candidate.program)
    if not programs:
        return
    warmup = max(1, rounds // 5)
    plain = Program(ground.policy, None)
    found = latencies(programs, plain, ground.reporting, rounds, warmup)
    for row in missing.values():
        row |= {"latency": found[row["plan"] or row["settings"]], "latency_rounds": rounds}
    own = table.rows[key_of(ground.name, None, PLAIN)]
    own |= {"latency": found[PLAIN], "latency_rounds": rounds}
    table.save()


def ordered(table: Table) -> list[Row]:
    """By sampler and S, in the order in which arms are listed."""
    place = {arm: i for i, arm in enumerate(ARMS)}

    def rank(row: Row) -> tuple[Any, ...]:
        return row["sampler"], row["steps"] or np.inf, place.get(row["arm"], -1), row["arm"]

    return sorted(table.rows.values(), key=rank)
