"""Plans as instructions of native.c."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .program import Key, StepProgram

COMPUTE, OPEN, CLOSE, REUSE, BIAS, ATTEND, END, DECIDE = range(8)


class Assembled(NamedTuple):
    """What native.c runs: code, and coefficients in the order of their use.

    alone: whether it is code for a batch of one row.
    """

    code: list[int]
    coefficients: list[float]
    biases: list[np.ndarray]
    n_slots: int
    alone: bool = False


def assemble(steps: list[StepProgram], ops: tuple[str, ...]) -> Assembled:
    """Steps as instructions; a slot is used again once nothing reads it."""
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
