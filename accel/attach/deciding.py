"""One generation in which the rows of a batch decide at run time what its blocks do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engines.program import Key
from ..plans.decisions import Decisions
from ..plans.plan import CachePlan
from .generation import Generation
from .streams import Block, Values, combined, owned


class Deciding(Generation):
    """A plan that decides at run time, row by row: blocks run if any row wants them."""

    KEY: Key = (0, 0, 0)

    def reset(self) -> None:
        super().reset()
        assert self.plan.decide is not None
        self.rule = self.plan.decide
        self.decisions = {branch: Decisions(self.rule) for branch in self.branches}

    @property
    def cache_bytes(self) -> int:
        return super().cache_bytes + sum(made.nbytes for made in self.decisions.values())

    def trace(self, branch: str | None) -> np.ndarray:
        return self.decisions[branch or self.branches[0]].trace

    def _run(
        self, index: int, block: Block, compute: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        streams, kept = self.streams, self._kept[self._now]
        if index in (0, self.rule.first):
            seen = owned(streams.into(block, args, kwargs))
            if index == 0:
                self._seen = seen
            if index == self.rule.first:
                self._decide(block, seen, args, kwargs)
        skipped = index >= self.rule.first and not self.any
        (self.hits if skipped else self.computed)[self._step, index] += 1
        if skipped:
            values = streams.into(block, args, kwargs)
            return streams.packed(block, self._reused() if index == self.last else values)
        out = compute(*args, **kwargs)
        streams.learn(block, out)
        if index < self.last:
            return out
        values = streams.after(block, out, args, kwargs)
        stored = self._stored(values, self._start)
        if not self.all:
            out = streams.packed(block, by_row(self.go, values, self._reused()))
            stored = by_row(self.go, stored, kept[self.KEY])
        kept[self.KEY] = stored
        return out

    def _decide(self, block: Block, seen: Values, args: Any, kwargs: Any) -> None:
        self._start, first = seen, self._seen[0]
        probes = {
            "norm": lambda: self.probe(block.module, args, kwargs).float(),
            "residual": lambda: (seen[0] - first).float(),
        }
        self.go = self.decisions[self._now].ask(self._step, probes)
        self.any, self.all = bool(self.go.any()), bool(self.go.all())

    def _reused(self) -> Values:
        start = None if self.kind == "output" else self._start
        return combined(start, [(self._kept[self._now][self.KEY], 1.0)])


def generation_of(plan: CachePlan) -> type[Generation]:
    """What runs a plan."""
    return Generation if plan.decide is None else Deciding


def by_row(rows: Tensor, values: Values, others: Values) -> Values:
    """Rows of `values` where `rows` (B,) is true, else of `others`; None where either is."""
    found: list[Tensor | None] = []
    for value, other in zip(values, others, strict=True):
        if value is None or other is None:
            found.append(None)
            continue
        if len(value) != len(rows):
            raise RuntimeError(
                f"a stream has {len(value)} rows, the probe {len(rows)}: a cache that decides at "
                "run time needs the batch as the first dimension of every stream"
            )
        found.append(torch.where(rows.view(-1, *[1] * (value.ndim - 1)), value, other))
    return tuple(found)
