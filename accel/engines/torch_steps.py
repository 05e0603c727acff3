"""What the blocks of a denoising step do in torch: a plan's segments, or what rows decide."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..plans.decisions import Decisions
from ..plans.plan import CachePlan
from ..protocol import Transparent
from .inputs import Memory
from .parts import layers_of
from .program import Key, StepProgram, peak_values
from .torch_sites import Branch, normalised


class PlannedSteps:
    """Steps whose cells are known before the query.

    captured: whether a query is the same operations every time, so that CUDA can replay it.
    """

    captured = True
    trace: np.ndarray | None = None

    def __init__(
        self,
        policy: Transparent,
        plan: CachePlan,
        steps: list[StepProgram],
        sites: list[Branch],
        memory: Memory | None,
        rows: tuple[int, int, int],
    ) -> None:
        self.steps, self.sites, self.memory, self.rows = steps, sites, memory, rows
        ops = tuple(site.op for site in plan.sites)
        self.attends = [step.computes("ca", ops) for step in steps]
        self.biases = {
            (s, segment.start): torch.from_numpy(segment.bias).to(policy.device)
            for s, step in enumerate(steps)
            for segment in step.segments
            if segment.bias is not None
        }
        self.cache_bytes = peak_values(steps) * 4 * int(np.prod(rows))
        self.cache_bytes += sum(bias.nbytes for bias in self.biases.values())

    def start(self) -> None:
        """A new query."""
        self.kept: dict[Key, Tensor] = {}

    def __call__(self, s: int, h: Tensor) -> Tensor:
        """The stream (batch * tokens, width) after the blocks of step s."""
        step, kept, starts = self.steps[s], self.kept, dict[Key, Tensor]()
        if self.memory is not None and self.attends[s]:
            self.memory.at_step(s)
        for segment in step.segments:
            if segment.add is not None:
                for key, coefficient in segment.add:
                    h = torch.add(h, kept[key], alpha=coefficient)
                if segment.bias is not None:
                    h = (h.view(self.rows) + self.biases[s, segment.start]).view(h.shape)
                continue
            for site in range(segment.start, segment.stop):
                for key in step.opens.get(site, ()):
                    starts[key] = h
                h = self.sites[site](h)
                for key in step.closes.get(site + 1, ()):
                    kept[key] = h - starts.pop(key)
        for key in step.drops:
            del kept[key]
        return h


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
