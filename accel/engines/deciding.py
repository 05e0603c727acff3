"""Plans that decide at run time, in every engine: in the reference, in torch, and in C.

`session`, `blocks_of` and `assembled` choose between them and plans that are known before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.packed import Packed
from ..plans.decisions import Decisions, Threshold, compiled_rule, normed
from ..plans.plan import CachePlan
from ..protocol import Compute, Transparent
from .assembler import ATTEND, CLOSE, COMPUTE, DECIDE, END, OPEN, Assembled, assemble
from .inputs import Memory
from .parts import layers_of
from .program import StepProgram
from .sessions import Recording, Session
from .torch_sites import Branch, normalised
from .torch_steps import PlannedSteps

DELTA, PROBE, BEFORE = range(3)  # slots of a program that decides


class DecidingSession:
    """The cache of one query that decides at run time: everything is computed, and rows choose.

    Args:
        plan: that decides.
        rule: of the plan.
        live: leading tokens that a probe sees.
        inputs: where the first normalised input of every step arrives.
        time: see `Threshold.time`.
    """

    def __init__(
        self, plan: CachePlan, rule: Threshold, live: int, inputs: list[Tensor], time: Tensor | None
    ) -> None:
        self.plan, self.rule, self.live, self.inputs = plan, rule, live, inputs
        self.decisions = Decisions(rule, time)
        self.probes = {
            "norm": lambda: self.inputs[-1][:, : self.live],
            "residual": lambda: self.before[:, : self.live],
        }
        self.stored: list[deque[Tensor]] = [deque(maxlen=1) for _ in plan.sites]
        self.computed = np.zeros(plan.mask.shape)

    @property
    def trace(self) -> np.ndarray:
        """(B, steps so far), see `Decisions`."""
        return self.decisions.trace

    def __call__(self, step: int, site: int, compute: Compute) -> Tensor:
        value = compute()
        if site == 0:
            self.before = torch.zeros_like(value)
        if site == self.rule.first:
            self.go = self.decisions.ask(step, self.probes)
        if site < self.rule.first:
            self.before = self.before + value
            self.computed[step, site] = 1
            return value
        stored = self.stored[site]
        stored.append(torch.where(self.go[:, None, None], value, stored[0]) if stored else value)
        self.computed[step, site] = float(self.go.double().mean())
        return stored[0]


@contextmanager
def session(
    policy: Transparent, plan: CachePlan, bias: Tensor | None = None
) -> Iterator[Recording]:
    """A `StepBranch` for one query of the policy; a deciding one watches its first norm."""
    live = 1 if plan.sites[0].op == "deep" else policy.n_live + policy.sizes.encoder_only
    if plan.decide is None:
        yield Session(plan, bias, live)
        return
    with normed(policy) as inputs:
        yield DecidingSession(plan, plan.decide, live, inputs, plan.decide.time(policy))


class DecidedSteps:
    """Steps that rows decide at run time; blocks are computed if any row wants them."""

    captured = False

    def __init__(
        self,
        policy: Transparent,
        plan: CachePlan,
        steps: list[StepProgram],
        sites: list[Branch],
        memory: Memory | None,
        rows: tuple[int, int, int],
    ) -> None:
        assert plan.decide is not None
        self.rule, self.sites, self.memory, self.rows = plan.decide, sites, memory, rows
        self.time = self.rule.time(policy)
        self.norm = normalised(layers_of(policy)[0].norm1)
        self.delta = torch.zeros(())
        self.cache_bytes = 2 * 4 * int(np.prod(rows))  # last delta, last probe

    def start(self) -> None:
        """A new query."""
        self.decisions = Decisions(self.rule, self.time)

    @property
    def trace(self) -> np.ndarray:
        """(B, N) of the last query, see `Decisions`."""
        return self.decisions.trace

    def __call__(self, s: int, h: Tensor) -> Tensor:
        """The stream (batch * tokens, width) after the blocks of step s."""
        before, first = h, self.rule.first
        if first and self.memory is not None:
            self.memory.at_step(s)
        for site in self.sites[:first]:
            h = site(h)
        probes = {
            "norm": lambda: self.norm(h).view(self.rows),
            "residual": lambda: (h - before).view(self.rows),
        }
        go = self.decisions.ask(s, probes)
        if not bool(go.any()):
            return h + self.delta
        if not first and self.memory is not None:
            self.memory.at_step(s)
        computed = h
        for site in self.sites[first:]:
            computed = site(computed)
        if bool(go.all()):
            self.delta = computed - h
            return computed
        chosen = go.repeat_interleave(self.rows[1])[:, None]
        out = torch.where(chosen, computed, h + self.delta)
        self.delta = torch.where(chosen, computed - h, self.delta)
        return out


def blocks_of(plan: CachePlan) -> type[PlannedSteps] | type[DecidedSteps]:
    """What runs the blocks of a plan's steps."""
    return PlannedSteps if plan.decide is None else DecidedSteps


def assembled(plan: CachePlan, steps: list[StepProgram]) -> Assembled:
    """A plan, and its steps, as instructions of native.c."""
    ops = tuple(site.op for site in plan.sites)
    return assemble(steps, ops) if plan.decide is None else _decided(plan.decide, len(steps), ops)


def _decided(rule: Threshold, n_steps: int, ops: tuple[str, ...]) -> Assembled:
    """The same for every step: the first sites, and the rest, which DECIDE may skip."""
    first = rule.first
    attend = [ATTEND, 0] if "ca" in ops else []

    def sites(start: int, stop: int) -> list[int]:
        return [word for site in range(start, stop) for word in (COMPUTE, site)]

    before = [*attend, OPEN, PROBE, *sites(0, first), CLOSE, PROBE] if first else []
    rest = [*([] if first else attend), OPEN, DELTA, *sites(first, len(ops)), CLOSE, DELTA]
    return Assembled(
        [*before, DECIDE, len(rest), *rest, END] * n_steps, [], [], BEFORE + 1, alone=True
    )


def rule_of(plan: CachePlan, policy: Transparent, packed: Packed) -> dict[str, Any]:
    """What native.c reads of a plan's rule, if it has one."""
    return {} if plan.decide is None else {"rule": packed.rule(compiled_rule(plan.decide, policy))}
