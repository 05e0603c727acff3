"""What the blocks of a model that is not ours do in every step of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engines.program import Cells, Key, compile_plan
from ..plans.plan import CachePlan

Term = tuple[Key, float, float]
"""A stored value, its coefficient, and that of its low band besides."""


@dataclass(frozen=True)
class Action:
    """What a block does in a step.

    Attributes:
        terms: None computes; else what the run of hits around it adds, newest first.
        start: the first block of that run.
        stop: one past its last.
    """

    terms: tuple[Term, ...] | None
    start: int
    stop: int


@dataclass(frozen=True)
class StepActions:
    """One step.

    Attributes:
        actions: of every block.
        anchors: what later steps add of this one, the last to begin first.
        drops: what no later step adds.
    """

    actions: tuple[Action, ...]
    anchors: tuple[Key, ...]
    drops: tuple[Key, ...]


def actions_of(plan: CachePlan) -> list[StepActions]:
    """Of every step of a plan."""
    found = []
    for now in compile_plan(plan, _cells(plan)):
        actions: list[Action] = []
        for segment in now.segments:
            added: Any = segment.add
            terms = None if added is None else tuple((key, *weights) for key, weights in added)
            action = Action(terms, segment.start, segment.stop)
            actions += [action] * (segment.stop - segment.start)
        anchors = sorted({key for keys in now.opens.values() for key in keys}, key=_begin)
        found.append(StepActions(tuple(actions), tuple(anchors), tuple(now.drops)))
    return found


def _begin(key: Key) -> int:
    return -key[1]


def _cells(plan: CachePlan) -> Cells:
    """Forecasts with the weights of both bands."""
    if plan.bands is None:
        return lambda step, site: tuple((a, (c, 0.0)) for a, c in plan.forecast(step, site))
    low = plan.bands.low
    alpha = np.eye(1, plan.n_slots)[0] if plan.alpha is None else plan.alpha

    def both(step: int, site: int) -> tuple[tuple[int, tuple[float, float]], ...]:
        anchors = np.flatnonzero(plan.mask[:step, site])[::-1]
        rows = np.broadcast_to(alpha, low.shape)[step, site], low[step, site]
        weights = zip(anchors, *rows, strict=False)
        return tuple((int(a), (float(c), float(b))) for a, c, b in weights if c or b)

    return both
