"""Episodes' embodied metrics over a run: means, paired differences, and the words for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from ..formatting import NOTHING
from ..statistics import MIN_DIFFERING

SUBTASKS = "time_to_subtask_s"
METRICS = {  # a key of `embodied` in episodes.jsonl: (what people read, its unit)
    "time_to_success_s": ("time to success", "s"),
    "path_length_m": ("path", "m"),
    "joint_path_length_rad": ("joint path", "rad"),
    "mean_squared_jerk_m2_s6": ("jerk", "m2/s6"),
    "mean_squared_joint_jerk_rad2_s6": ("joint jerk", "rad2/s6"),
    "mean_chunk_jump": ("mean jump", ""),
    "max_chunk_jump": ("largest jump", ""),
    "energy_j": ("energy", "J"),
}
PIXELS = {  # of a flat world without metres: what stands in their place
    "path_length_m": ("path_length_px", "px"),
    "mean_squared_jerk_m2_s6": ("mean_squared_jerk_px2_s6", "px2/s6"),
}
IN_PIXELS = tuple(name for name, _ in PIXELS.values())
WHICH = {"time_to_success_s": "both solved", SUBTASKS: "both completed"}  # seeds of a pair

Named = Mapping[str, tuple[str, str]]  # as METRICS
Records = Iterable[Mapping[str, Any]]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """Over the n episodes that have the metric, with its 95 % interval (Student's t)."""

    n: int
    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class PairedMean:
    """Mean of an arm's metric minus its baseline's over the n seeds on which both have it.

    interval: 95 %, Student's t of the differences; None where fewer than `MIN_DIFFERING` differ.
    """

    n: int
    difference: float
    interval: Interval | None


def flat(record: Mapping[str, Any]) -> dict[str, float]:
    """What an episode has of the metrics; "time_to_subtask_s/kettle" of a subtask.

    An error, or an episode of an older version, has none.
    """
    measured = dict(record.get("embodied") or {})
    subtasks = {f"{SUBTASKS}/{k}": v for k, v in measured.pop(SUBTASKS, {}).items()}
    return {k: v for k, v in (measured | subtasks).items() if v is not None}


def by_metric(records: Records) -> dict[str, dict[int, float]]:
    """{metric: {seed: value}}, the tables' metrics first and subtasks by name."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in flat(record).items():
            found.setdefault(name, {})[record["seed"]] = value
    order = [*METRICS, *IN_PIXELS]
    return dict(
        sorted(found.items(), key=lambda m: (order.index(m[0]) if m[0] in order else 99, m[0]))
    )


def means(records: Records) -> dict[str, Mean]:
    """Each metric that some episode has."""
    found: dict[str, Mean] = {}
    for name, by_seed in by_metric(records).items():
        values = np.array(list(by_seed.values()))
        found[name] = Mean(len(values), float(values.mean()), t_interval(values))
    return found


def metrics_of(found: Iterable[str]) -> Named:
    """METRICS for a table in which these were measured: pixels, where they were, for metres."""
    there = set(found)
    shown = {}
    for name, (title, unit) in METRICS.items():
        other, its_unit = PIXELS.get(name, (name, unit))
        shown[other if other in there else name] = (title, its_unit if other in there else unit)
    return shown


def differences(ours: Records, theirs: Records) -> dict[str, PairedMean]:
    """Each metric that both have on some seed."""
    found: dict[str, PairedMean] = {}
    baseline = by_metric(theirs)
    for name, by_seed in by_metric(ours).items():
        other = baseline.get(name, {})
        gaps = np.array([by_seed[s] - other[s] for s in sorted(by_seed.keys() & other.keys())])
        if len(gaps):
            enough = np.count_nonzero(gaps) >= MIN_DIFFERING
            interval = t_interval(gaps) if enough else None
            found[name] = PairedMean(len(gaps), float(gaps.mean()), interval)
    return found


def t_interval(sample: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Student's interval of a mean; None for a single value."""
    values = np.asarray(sample, np.float64)
    if len(values) < 2:
        return None
    error = float(values.std(ddof=1)) / len(values) ** 0.5
    reach = float(scipy.special.stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
    return float(values.mean()) - reach, float(values.mean()) + reach


def as_json(found: Mapping[str, Mean] | Mapping[str, PairedMean]) -> dict[str, dict[str, Any]]:
    """For result.json."""
    return {name: asdict(value) for name, value in found.items()}


def summary_values(result: Mapping[str, Any]) -> dict[str, Any]:
    """For W&B's summary: means, their intervals, and the paired differences."""
    values: dict[str, Any] = {}
    paired = (result["baseline"] or {}).get("embodied", {})
    for head, key, found in (
        ("embodied", "mean", result.get("embodied", {})),
        ("paired/embodied", "difference", paired),
    ):
        for name, entry in found.items():
            low, high = entry["interval"] or (None, None)
            kept = {"": entry[key], "_low": low, "_high": high, "_n": entry["n"]}
            values |= {f"{head}/{name}{end}": v for end, v in kept.items() if v is not None}
    return values


def table_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """For the terminal: a row a metric; one for all where no episode was measured."""
    found = result.get("embodied") or {}
    paired = (result["baseline"] or {}).get("embodied", {})
    shown = metrics_of(found)
    if not any(name in found for name in shown):
        return [("embodied", NOTHING)]
    return [
        (title, _said(found.get(name), paired.get(name), name, unit))
        for name, (title, unit) in shown.items()
    ]


def _said(
    mean: Mapping[str, Any] | None, paired: Mapping[str, Any] | None, name: str, unit: str
) -> str:
    if mean is None:
        return NOTHING
    words = f"{spread(mean['mean'], mean['interval'])} {unit}".rstrip()
    words += f"  ({mean['n']} episodes)"
    if paired:
        seeds = f"{paired['n']} seeds" + (f" that {WHICH[name]}" if name in WHICH else "")
        words += f"; {spread(paired['difference'], paired['interval'], '+')} paired on {seeds}"
    return words


def spread(value: float, interval: Sequence[float] | None, sign: str = "") -> str:
    """A number and its interval, three digits each."""
    bounds = f" [{', '.join(digits(bound, sign) for bound in interval)}]" if interval else ""
    return digits(value, sign) + bounds


def digits(value: float, sign: str = "") -> str:
    """Three digits, without an exponent from 0.0001 on."""
    return f"{value:{sign}.3g}" if abs(value) < 999.5 else f"{value:{sign}.0f}"
