"""runner=show: what a cache will compute, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accel.caches.saved import PLAN_FILE
from skipstep.whole_files import write_whole

from ..formatting import columns, underlined
from ..jobs.runner import Runner
from ..jobs.session import run_unless_done, signature
from ..store.folder import RunStore
from .page import plan_page, plan_picture
from .plan_view import arm, differing_computed, summary
from .prepare import ShowConfig, ShowJob, plans_of, prepare_show

PAGE, PICTURE, COMPARED = "plan.html", "plan.svg", "plan_compared.json"
DRAWN = ("similarity", "volatility")  # of a calibration that holds both


def run_show(job: ShowJob, folder: Path) -> dict[str, Any]:
    """Write the plan as JSON, page and picture, with what it is compared with, and the numbers."""
    return run_unless_done(job, folder, lambda store: _run(job, store), lambda done: False)


def _run(job: ShowJob, store: RunStore) -> dict[str, Any]:
    plans, calibration = plans_of(job), job.calibration
    if calibration and calibration.lacks(DRAWN):
        calibration = None
    letters = ("A: ", "B: ") if plans[1:] else ("",)
    arms = [
        arm(letter + source.label, plan, job.policy, job.plain)
        for letter, source, plan in zip(letters, job.sources, plans, strict=True)
    ]
    title = f"{job.task}, " + " and ".join(source.label for source in job.sources)
    for name, plan in zip((PLAN_FILE, COMPARED), plans, strict=False):
        plan.save(store.folder / name)
    for name, drawn in ((PAGE, plan_page), (PICTURE, plan_picture)):
        write_whole(store.folder / name, drawn(title, arms, calibration, job.runner.metric))
    result = {
        "runner": job.runner.name,
        "task": job.task,
        "title": title,
        "labels": [a.label for a in arms],
        "table": summary(arms),
        "plans": [
            {
                "digest": a.plan.digest(),
                "method": a.plan.method,
                "adapted": list(a.plan.adapted),
                "mean_updates": float(a.updates.mean()),
                "equivalent_steps": a.equivalent_steps,
                "flops": {
                    "query": a.query,
                    "live": a.live,
                    "plain": a.of,
                    "share": a.share,
                    "live_share": a.live_share,
                    **({} if a.encode is None else {"encode": a.encode}),
                },
            }
            for a in arms
        ],
        "differing_cells": differing_computed(*plans) if plans[1:] else None,
        **signature(job),
    }
    store.write_result(result)
    return result


def render_show(result: Mapping[str, Any], folder: Path) -> str:
    """The numbers of the plans side by side, and where the files are."""
    rows = [["", *result["labels"]], *([name, *values] for name, values in result["table"])]
    lines = columns(rows)
    width = max(len(row[0]) for row in rows)
    files = [str(folder / name) for name in (PAGE, PICTURE, PLAN_FILE)]
    lines += [f"{'' if i else 'files':<{width}}  {file}" for i, file in enumerate(files)]
    return underlined(result["title"], lines)


SHOW = Runner(ShowConfig, prepare_show, run_show, render_show)
