"""What the branches of one query put out in the reference engine, and what it keeps of them."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..plans.bands import low_pass
from ..plans.plan import CachePlan
from ..protocol import Compute


class Recording(Protocol):
    """What runs the branches of one query, and knows what it computed; `trace` where rows chose."""

    stored: list[deque[Tensor]]
    computed: np.ndarray

    @property
    def trace(self) -> np.ndarray | None: ...

    def __call__(self, step: int, site: int, compute: Compute) -> Tensor: ...


class Session:
    """The cache of one query: the last computed values of each site, newest first."""

    trace: np.ndarray | None = None

    def __init__(self, plan: CachePlan, bias: Tensor | None = None, live: int = 1) -> None:
        self.plan, self.bias, self.live = plan, bias, live
        self.stored: list[deque[Tensor]] = [deque(maxlen=plan.n_slots) for _ in plan.sites]
        self.computed: np.ndarray = np.zeros_like(plan.mask, dtype=np.int64)

    def __call__(self, step: int, site: int, compute: Compute) -> Tensor:
        stored = self.stored[site]
        if self.plan.mask[step, site]:
            self.computed[step, site] += 1
            stored.appendleft(compute())
            return stored[0]
        return self._biased(self._combined(step, site, list(stored)), step, site)

    def _combined(self, step: int, site: int, stored: list[Tensor]) -> Tensor:
        if self.plan.alpha is None:
            return stored[0]
        total: Tensor = self.plan.alpha[step, site, 0] * stored[0]
        for coefficient, value in zip(self.plan.alpha[step, site, 1:], stored[1:], strict=False):
            total = total + coefficient * value
        if self.plan.bands is not None:
            low = self.plan.bands.low[step, site]
            terms = [c * x[:, : self.live] for c, x in zip(low, stored, strict=False)]
            projection = torch.from_numpy(low_pass(self.live, self.plan.bands.cutoff))
            added = projection.to(total) @ torch.stack(terms).sum(dim=0)
            total = total + F.pad(added, (0, 0, 0, total.shape[-2] - self.live))
        return total

    def _biased(self, value: Tensor, step: int, site: int) -> Tensor:
        if self.bias is None:
            return value
        bias = self.bias[step, site]
        dead = value.shape[-2] - bias.shape[-2]  # later tokens, on which no executed action depends
        return value + F.pad(bias, (0, 0, 0, dead))


def bias_of(plan: CachePlan, device: torch.device) -> Tensor | None:
    """What hits add besides, for a `Session`."""
    bias = plan.hit_bias()
    return None if bias is None else torch.from_numpy(bias).to(device)
