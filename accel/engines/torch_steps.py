"""What the blocks of a denoising step do in torch: the segments of a plan."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..plans.plan import CachePlan
from ..protocol import Transparent
from .inputs import Memory
from .program import Key, StepProgram, peak_values
from .torch_sites import Branch


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
