"""Plans as instructions of native.c."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..plans.decisions import Threshold
from ..plans.plan import CachePlan
from .program import Key, StepProgram

COMPUTE, OPEN, CLOSE, REUSE, BIAS, ATTEND, END, DECIDE = range(8)
DELTA, PROBE, BEFORE = range(3)  # slots of a program that decides


class Assembled(NamedTuple):
    """What native.c runs: code, and coefficients in the order of their use."""

    code: list[int]
    coefficients: list[float]
    biases: list[np.ndarray]
    n_slots: int
    rule: Threshold | None = None


def assemble(plan: CachePlan, steps: list[StepProgram]) -> Assembled:
    """A plan, and its steps, as instructions."""
    ops = tuple(site.op for site in plan.sites)
    return _planned(steps, ops) if plan.decide is None else _deciding(plan.decide, len(steps), ops)


def _planned(steps: list[StepProgram], ops: tuple[str, ...]) -> Assembled:
    """A slot is used again once nothing reads it."""
    code: list[int] = []
    coefficients: list[float] = []
    biases: list[np.ndarray] = []
    slots: dict[Key, int] = {}
    free: list[int] = []
    n_slots = 0
    for step in steps:
        if step.computes("ca", ops):
            code += [ATTEND, 0]
        for segment in step.segments:
            for key, coefficient in segment.add or ():
                code += [REUSE, slots[key]]
                coefficients.append(coefficient)
            if segment.bias is not None:
                code += [BIAS, len(biases)]
                biases.append(segment.bias)
            for site in range(segment.start, segment.stop) if segment.add is None else ():
                for key in step.opens.get(site, ()):
                    if not free:
                        free.append(n_slots)
                        n_slots += 1
                    slots[key] = free.pop()
                    code += [OPEN, slots[key]]
                code += [COMPUTE, site]
                code += [x for key in step.closes.get(site + 1, ()) for x in (CLOSE, slots[key])]
        free += [slots.pop(key) for key in step.drops]
        code.append(END)
    return Assembled(code, coefficients, biases, n_slots)


def _deciding(rule: Threshold, n_steps: int, ops: tuple[str, ...]) -> Assembled:
    """The same for every step: the first sites, and the rest, which DECIDE may skip."""
    first = rule.first
    attend = [ATTEND, 0] if "ca" in ops else []

    def sites(start: int, stop: int) -> list[int]:
        return [word for site in range(start, stop) for word in (COMPUTE, site)]

    before = [*attend, OPEN, PROBE, *sites(0, first), CLOSE, PROBE] if first else []
    rest = [*([] if first else attend), OPEN, DELTA, *sites(first, len(ops)), CLOSE, DELTA]
    return Assembled([*before, DECIDE, len(rest), *rest, END] * n_steps, [], [], BEFORE + 1, rule)
