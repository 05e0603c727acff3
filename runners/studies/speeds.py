"""How many times as fast an arm is, measured in turn with the unaccelerated policy in one run.

Milliseconds of different runs are of different hours of a machine; ratios within a run are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipstep.plain_files import read_json

from ..errors import UserError
from ..store.reading import Run
from .arms import timing_label
from .cost import Latency

TOGETHER = "latency.json"  # of a study: {task: {arm: ratios}}, all arms in turn in one process


@dataclass(frozen=True)
class Speed:
    """times: as the checkpoint's unaccelerated policy in stock modules, in the same run."""

    times: float
    interval: tuple[float, float]
    conditions: str


def read_together(folder: Path) -> dict[str, dict[str, Any]]:
    """What a study timed in turn in one process; empty where it did not.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / TOGETHER
    if not path.is_file():
        return {}
    try:
        return {str(task): dict(arms) for task, arms in read_json(path).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} must hold times by task and arm: {error}") from error


def speed_of(
    run: Run, latency: Latency | None, together: Mapping[str, Mapping[str, Any]]
) -> Speed | None:
    """An arm's own measurement, else the study's; None where there is neither."""
    if latency and latency.ratio:
        bounds = latency.ratio_interval or (latency.ratio, latency.ratio)
        return Speed(latency.ratio, bounds, latency.conditions)
    task = together.get(str(run.result.get("task")), {})
    timed = task.get(timing_label(run.config)) if run.config.get("sampler") else None
    if not isinstance(timed, Mapping) or "cpu_ratio" not in timed:
        return None
    low, high = timed["cpu_ratio_interval"]
    machine = task.get("machine", {})
    said = [f"batch 1, {machine['threads']} thread"] if "threads" in machine else ["batch 1"]
    said += ["all arms in turn in one process, ratios of CPU times", str(machine.get("cpu", ""))]
    return Speed(float(timed["cpu_ratio"]), (low, high), ", ".join(filter(None, said)))
