"""runner=show: what a cache will compute, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accel.caches.saved import PLAN_FILE

from ..jobs.runner import Runner
from ..jobs.versions import versions
from ..overrides import command
from ..store.folder import RunStore, write_whole
from .image import plan_image
from .page import plan_page
from .plan_view import arm, differing_computed, summary
from .prepare import ShowConfig, ShowJob, plans_of, prepare_show

PAGE, IMAGE, COMPARED = "plan.html", "plan.png", "plan_compared.json"


def run_show(job: ShowJob, folder: Path) -> dict[str, Any]:
    """Write the plan as JSON, page and picture, with what it is compared with, and the numbers."""
    store = RunStore(folder, job.config, job.settings.force)
    try:
        with store.running():
            return _run(job, store)
    finally:
        store.close()


def _run(job: ShowJob, store: RunStore) -> dict[str, Any]:
    plans, calibration = plans_of(job), job.calibration
    letters = ("A: ", "B: ") if plans[1:] else ("",)
    arms = [
        arm(letter + source.label, plan, job.policy, job.plain)
        for letter, source, plan in zip(letters, job.sources, plans, strict=True)
    ]
    title = f"{job.task}, " + " and ".join(source.label for source in job.sources)
    for name, plan in zip((PLAN_FILE, COMPARED), plans, strict=False):
        plan.save(store.folder / name)
    plan_image(store.folder / IMAGE, title, arms, calibration, job.runner.metric)
    write_whole(store.folder / PAGE, plan_page(title, arms, calibration, job.runner.metric))
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
                },
            }
            for a in arms
        ],
        "differing_cells": differing_computed(*plans) if plans[1:] else None,
        "fingerprint": job.fingerprint,
        "command": command(),
        "versions": versions(),
    }
    store.write_result(result)
    return result


def render_show(result: Mapping[str, Any], folder: Path) -> str:
    """The numbers of the plans side by side, and where the files are."""
    rows = [["", *result["labels"]], *([name, *values] for name, values in result["table"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    files = [str(folder / name) for name in (PAGE, IMAGE, PLAN_FILE)]
    return "\n".join(
        ["", result["title"], "-" * len(result["title"])]
        + [line.rstrip() for line in lines]
        + [f"{'files' if i == 0 else '':<{widths[0]}}  {f}" for i, f in enumerate(files)]
    )


SHOW = Runner(ShowConfig, prepare_show, run_show, render_show)
