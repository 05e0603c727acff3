"""python benchmarks/action_error.py: how far accelerated actions are from the plain policy's."""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np
import torch
from tqdm import tqdm

from accel import flops_share
from accel.plans.flops import equivalent_steps
from benchmarks.candidates import ARMS, Budget, Candidate
from benchmarks.questions import Ground, Questions, ask, ground_of, jobs_of, parser_of, rms, scores
from benchmarks.writing import check, keep, machine, markdown
from runners.jobs.prepare import MISTAKES
from runners.jobs.settings import UserError, digest
from runners.svg import Drawing, log_scale, picture
from skipstep.whole_files import write_whole

FEW, KEPT = 16, 0.25
Row = dict[str, Any]
HEADER = (
    *("sampler", "S", "arm", "error", "95 %", "p95", "flips", "nearest"),
    *("steps", "FLOPs", "settings"),
)
NOTE = """
error: mean over queries of the RMS distance of executed actions from the plain policy's by the
same noise, normalised units, with its 95 % bootstrap interval; p95 over queries. flips: share of
queries whose error is at least the mean distance of the plain policy's own actions by other noises.
nearest: mean distance to the nearest of the plain policy's actions by other noises, which does not
depend on how a sampler uses its noise: judge ddim by it. steps: equal FLOPs of a cache of whole
steps. FLOPs: share of the plain policy's with the row's sampler, not a speed-up."""
DRAWN = {  # arm: colour
    **{"even": "#d9a441", "quadratic": "#0072b2", "ddim": "#6b737b", "bac": "#c14d00"},
    **{"bac equal": "#a8467f", "block": "#8a6100", "hash_ab": "#007a5a"},
}


class Chooser:
    """Settings of the arms at one budget, by the mean action error on the calibration's queries.

    All candidates meet `FEW` of the queries, the best quarter all of them; each plan is run once.
    """

    def __init__(self, budget: Budget, known: Mapping[str, str]) -> None:
        """`known`: {arm: words of its chosen setting} of an earlier run."""
        self.budget, self.known = budget, known
        self.stages = [budget.asked.first(FEW), budget.asked]
        self.errors: dict[tuple[str, int], float] = {}
        self.chosen: dict[str, Candidate | None] = {}

    def error(self, candidate: Candidate, stage: int = 1) -> float:
        """Mean action error on the calibration's queries (stage 0: on few of them)."""
        plan, asked = candidate.plan, self.stages[stage]
        key = (plan.digest() if plan else candidate.words, len(asked.plain))
        if key not in self.errors:
            actions, _ = ask(asked, candidate.policy, plan)
            self.errors[key] = float(rms(actions, asked.plain).mean())
        return self.errors[key]

    def best(self, arm: str) -> Candidate | None:
        """The chosen setting of an arm, the first where several do as well; None if none fits S."""
        if arm not in self.chosen:
            self.chosen[arm] = self._choose(arm, list(ARMS[arm](self.budget, self.best)))
        return self.chosen[arm]

    def _choose(self, arm: str, candidates: Sequence[Candidate]) -> Candidate | None:
        for candidate in candidates:
            if len(candidates) == 1 or self.known.get(arm) == candidate.words:
                return candidate
        for stage in range(len(self.stages)):
            bar = tqdm(candidates, desc=f"{arm}: choosing", disable=None, leave=False)
            order = np.argsort([self.error(candidate, stage) for candidate in bar], kind="stable")
            kept = max(4, round(KEPT * len(order))) if stage == 0 else 1
            candidates = [candidates[i] for i in sorted(order[:kept])]
        return candidates[0] if candidates else None


class Table:
    """The rows so far by "sampler S=10 arm", written whenever one is added."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, about
        path = folder / "action_error.json"
        self.rows: dict[str, Row] = json.loads(path.read_text())["rows"] if path.exists() else {}

    def add(self, row: Row) -> None:
        steps = f" S={row['steps']}" if row["steps"] else ""
        self.rows[f"{row['sampler']}{steps} {row['arm']}"] = row
        keep(self.folder, "action_error", {"about": self.about, "rows": self.rows})

    def of(self, ground: Ground, steps: int) -> dict[str, Row]:
        """{arm: row} of those made on the same ground."""
        rows = [row for row in self.rows.values() if row["basis"] == basis_of(ground)]
        found = [row for row in rows if (row["sampler"], row["steps"]) == (ground.sampler, steps)]
        return {row["arm"]: row for row in found}

    def ordered(self) -> list[Row]:
        """By sampler and S, in the order in which arms are listed."""
        place = {arm: i for i, arm in enumerate(ARMS)}

        def rank(row: Row) -> tuple[Any, ...]:
            return row["sampler"], row["steps"] or np.inf, place.get(row["arm"], -1), row["arm"]

        return sorted(self.rows.values(), key=rank)


def basis_of(ground: Ground) -> str:
    """Hash of what a row's errors follow from, besides its arm."""
    asked = ground.reporting
    return digest(
        {
            "calibration": ground.calibration.digest(),
            "choosing": ground.choosing.queries.seeds.tolist(),
            "queries": [asked.queries.seeds.tolist(), asked.queries.numbers.tolist()],
            "noises": asked.others.shape[1],
        }
    )


def run_sampler(ground: Ground, steps: Sequence[int], arms: Sequence[str], table: Table) -> None:
    """Errors of every arm at every S; what the table holds is skipped."""
    shared = {"sampler": ground.sampler, "basis": basis_of(ground)}
    for name, values in unaccelerated(ground.reporting).items():
        said = {"steps": None, "arm": name, "settings": "", "flops_share": 1.0}
        table.add({**shared, **said, **values})
    for n in steps:
        there = table.of(ground, n)
        known = {arm: row["settings"] for arm, row in there.items()}
        chooser = Chooser(Budget(ground.policy, ground.calibration, n, ground.choosing), known)
        for arm in tqdm(arms, desc=f"{ground.sampler} S={n}", unit="arm", disable=None):
            candidate = None if arm in there else chooser.best(arm)
            if candidate is not None:
                found = {"choosing_error": chooser.error(candidate), **row_of(ground, candidate)}
                table.add({**shared, "steps": n, "arm": arm, **found})


def unaccelerated(asked: Questions) -> dict[str, Row]:
    """What the plain policy itself scores, by the same noise and by another one."""
    fresh = scores(asked.others[:, 0], asked) | {"nearest": None}  # it is one of the others
    return {"plain": scores(asked.plain, asked), "plain, other noise": fresh}


def row_of(ground: Ground, candidate: Candidate) -> Row:
    actions, computed = ask(ground.reporting, candidate.policy, candidate.plan)
    return {
        "settings": candidate.words,
        "flops_share": flops_share(candidate.policy, computed, ground.policy),
        "equivalent_steps": equivalent_steps(candidate.policy, computed),
        "plan": candidate.plan.digest() if candidate.plan else None,
        **scores(actions, ground.reporting),
    }


def as_csv(rows: Sequence[Row]) -> str:
    """Rows without lists, for a spreadsheet."""
    names = ("sampler", "steps", "arm", "settings", "error_mean", "error_p50", "error_p95", "flips")
    names += ("relative", "error_low", "error_high", "nearest", "choosing_error")
    names += ("equivalent_steps", "flops_share")
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        low, high = row["error_interval"]
        writer.writerow({**row, "error_low": low, "error_high": high})
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        low, high = row["error_interval"]
        numbers = {"steps": "d", "nearest": ".4f", "equivalent_steps": ".1f"}
        found = {k: format(row[k], f) if row.get(k) is not None else "" for k, f in numbers.items()}
        error = (f"{row['error_mean']:.4f}", f"{low:.4f}-{high:.4f}", f"{row['error_p95']:.4f}")
        costs = (found["equivalent_steps"], f"{row['flops_share']:.1%}", row["settings"])
        first = (row["sampler"], found["steps"], row["arm"])
        lines.append((*first, *error, f"{row['flips']:.0%}", found["nearest"], *costs))
    return f"{markdown(HEADER, lines)}\n{NOTE}"


def drawn(rows: Sequence[Row], sampler: str) -> Drawing:
    """Error over FLOPs share, a line an arm of `DRAWN`."""
    mine = [r for r in rows if r["sampler"] == sampler and r["steps"] and r["arm"] in DRAWN]
    plot = Drawing(640, 400)
    if not mine:
        return plot
    x = log_scale([row["flops_share"] for row in mine], 60, 620)
    y = log_scale([row["error_mean"] for row in mine], 360, 50)
    plot.axis_x(x, 360, 50, "FLOPs share", lambda v: f"{v:.0%}")
    plot.axis_y(y, 60, 620, "action error (RMS, normalised)", lambda v: f"{v:g}")
    plot.legend(60, 14, [(colour, arm) for arm, colour in DRAWN.items()])
    for arm, colour in DRAWN.items():
        found = sorted(
            (r["flops_share"], r["error_mean"], r["steps"]) for r in mine if r["arm"] == arm
        )
        points = [(x(share), y(error)) for share, error, _ in found]
        if points:
            plot.path(points, fill="none", stroke=colour, stroke_width=1.5)
        for (px, py), (_, error, steps) in zip(points, found, strict=True):
            plot.dot(px, py, colour, f"{arm}, S = {steps}: {error:.4f}")
            plot.text(px, py - 9, str(steps), "middle")
    return plot


def report(table: Table, title: str) -> None:
    """Print the table, write it as Markdown and CSV, and draw it."""
    rows = table.ordered()
    found = {"about": table.about, "rows": table.rows}
    keep(table.folder, "action_error", found, as_markdown(rows))
    write_whole(table.folder / "action_error.csv", as_csv(rows))
    samplers = dict.fromkeys(row["sampler"] for row in rows)
    drawings = [(sampler, drawn(rows, sampler)) for sampler in samplers]
    write_whole(table.folder / "action_error.svg", picture(title, drawings))


def parser() -> argparse.ArgumentParser:
    words = parser_of("action_error", __doc__, noises=4)
    words.add_argument("--steps", type=int, nargs="+", default=[5, 7, 10, 20], metavar="S")
    words.add_argument("--samplers", nargs="+", default=["ddpm", "ddim16"], metavar="SAMPLER")
    words.add_argument("--arms", nargs="+", default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    return words


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option, before anything is made."""
    options = parser().parse_args(argv)
    out: Path = options.out or Path("multirun/action_error") / options.task
    try:
        check(options, steps=2)
        if unknown := [arm for arm in options.arms if arm not in ARMS]:
            raise ValueError(f"--arms must be among {', '.join(ARMS)}, got {', '.join(unknown)}")
        jobs = {sampler: jobs_of(options, sampler) for sampler in options.samplers}
    except (UserError, *MISTAKES) as error:
        print(f"error: {UserError(error)}", file=sys.stderr)
        return 2
    logging.getLogger("accel.caches").setLevel(logging.ERROR)  # hundreds of settings are tried
    torch.set_num_threads(options.threads)
    table = Table(out, {"machine": machine(), "threads": options.threads, "command": list(argv)})
    for sampler, pair in jobs.items():
        ground = ground_of(pair, sampler, options.noises, out)
        steps = [s for s in options.steps if s < ground.policy.n_inference_steps]
        run_sampler(ground, steps, options.arms, table)
    report(table, f"{options.task}: action error, {options.queries} queries")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
