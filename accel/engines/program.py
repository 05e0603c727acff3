"""A cache plan as a program: which sites to compute, what to keep, what to add, step by step.

Neighbouring hits with the same anchors and coefficients are one run, and need one stored tensor per
anchor: the stream after the run minus the stream before it, taken when the anchor's step was
computed. So a run of any length costs one addition per anchor, and nothing is stored that no later
step reads. Biases of a run are summed here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..plans.plan import CachePlan

Key = tuple[int, int, int]
"""(anchor step, first site, one past the last site): a difference of the stream."""

Cells = Callable[[int, int], Sequence[tuple[int, Any]]]
"""(step, site) -> what a hit adds: (anchor step, weight), as `CachePlan.forecast` has it."""


@dataclass
class Segment:
    """Part of a step: sites start..stop computed (`add` is None), or one run of hits.

    bias: (live tokens, width), what the run adds besides; None is zero.
    """

    start: int
    stop: int
    add: tuple[tuple[Key, float], ...] | None = None
    bias: np.ndarray | None = None


@dataclass
class StepProgram:
    """One denoising step.

    Attributes:
        segments: in the order of the sites.
        opens: {site: keys whose difference starts before it}, while computing.
        closes: {site: keys whose difference ends before it}.
        drops: keys that no later step reads.
    """

    segments: list[Segment]
    opens: dict[int, list[Key]] = field(default_factory=dict)
    closes: dict[int, list[Key]] = field(default_factory=dict)
    drops: list[Key] = field(default_factory=list)

    def computes(self, op: str, ops: tuple[str, ...]) -> bool:
        """Whether a site with operation `op` is computed; `ops` are those of all sites."""
        return any(op in ops[s.start : s.stop] for s in self.segments if s.add is None)


def compile_plan(plan: CachePlan, cells: Cells | None = None) -> list[StepProgram]:
    """Segments of every step, and the differences that must be kept for later ones.

    Args:
        plan: any.
        cells: None is `plan.forecast`; other weights than coefficients come out as they are.
    """
    cells = cells or plan.forecast
    program = [StepProgram(_segments(plan, step, cells)) for step in range(plan.n_steps)]
    last_use: dict[Key, int] = {}
    for step, now in enumerate(program):
        for segment in now.segments:
            for key, _ in segment.add or ():
                last_use[key] = step
    for key, step in last_use.items():
        anchor, start, stop = key
        program[anchor].opens.setdefault(start, []).append(key)
        program[anchor].closes.setdefault(stop, []).append(key)
        program[step].drops.append(key)
    return program


def _segments(plan: CachePlan, step: int, cells: Cells) -> list[Segment]:
    found: list[Segment] = []
    previous: object = None
    for site in range(len(plan.sites)):
        cell = None if plan.mask[step, site] else cells(step, site)
        if found and cell == previous:
            found[-1].stop = site + 1
        else:
            found.append(Segment(site, site + 1, None if cell is None else ()))
        previous = cell
    for segment in found:
        if segment.add is not None:
            terms = cells(step, segment.start)
            segment.add = tuple(((anchor, segment.start, segment.stop), c) for anchor, c in terms)
            if plan.bias is not None:
                bias = plan.bias[step, segment.start : segment.stop].sum(axis=0)
                segment.bias = bias if bias.any() else None
    return found


def peak_values(program: list[StepProgram]) -> int:
    """Differences that are held at once, at most."""
    alive = peak = 0
    for step in program:
        alive += sum(len(keys) for keys in step.closes.values())
        peak = max(peak, alive)
        alive -= len(step.drops)
    return peak
