"""One generation in which the rows of a batch decide at run time what its blocks do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engines.program import Key
from ..plans.decisions import Decisions
from ..plans.plan import CachePlan
from .generation import Generation
from .pieces import Piece, Recorder, Reuse
from .streams import Block
from .values import Values, by_row, combined, owned, shapes_of


class Deciding(Generation):
    """A plan that decides at run time, row by row: blocks run if any row wants them."""

    KEY: Key = (0, 0, 0)

    def reset(self) -> None:
        super().reset()
        assert self.plan.decide is not None
        self.rule = self.plan.decide
        self.decisions = {branch: Decisions(self.rule) for branch in self.calls.branches}

    def _forget_call(self) -> None:
        super()._forget_call()
        self._seen: Values = ()
        self._first: Recorder | None = None  # of the blocks that always run
        self._go: Tensor | None = None
        self._all = True  # rows compute
        self._known: dict[int, Piece] = {}

    @property
    def cache_bytes(self) -> int:
        return super().cache_bytes + sum(made.nbytes for made in self.decisions.values())

    def trace(self, branch: str | None) -> np.ndarray:
        branch = branch or self.calls.branches[0]
        rows = {len(column) for column in self.decisions[branch].columns}
        if len(rows) != 1:
            had = f"batches of {', '.join(map(str, sorted(rows)))} rows" if rows else "no step yet"
            raise RuntimeError(f"branch {branch} had {had}: there is no trace of it")
        return self.decisions[branch].trace

    def step(self, step: int, branch: str | None) -> None:
        super().step(step, branch)
        self._waiting = []  # what is kept follows from decisions

    def _run(
        self, index: int, block: Block, compute: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        values = block.streams.into(block, args, kwargs)
        if len(self.calls.ran) == 1:
            self._seen = values if self.rule.first or self.probe else owned(values)
            if index < self.rule.first:
                self._first = self._record(index, self.rule.first, [], {})
                self._first.kind = "delta"
        if index >= self.rule.first:
            if self._go is None:
                self._decide(index, block, values, args, kwargs)
            if self._reuse is not None:
                if self._reuse.fits(index, values):
                    return self._hit(index, block, values)
                self._give_up(index, len(self.blocks) + 1, [self.KEY])
                self.decisions[self.calls.branch].all_computed()
                self._all = True
        out = self._computed(index, block, compute, args, kwargs)
        if self._all or not (self._recordings and (index in self._known or index == self.last)):
            return out
        return self._mixed(index, block, block.streams.after(block, out, args, kwargs))

    def _decide(self, index: int, block: Block, values: Values, args: Any, kwargs: Any) -> None:
        kept = self._kept[self.calls.branch].get(self.KEY)
        fits = kept is not None and kept[0].ran[0] == index and kept[0].shapes == shapes_of(values)
        probes = {
            "norm": lambda: self._probed(block, args, kwargs).float(),
            "residual": lambda: self._added().float(),
        }
        self._go = self.decisions[self.calls.branch].ask(self._step, probes, anew=not fits)
        self._all = bool(self._go.all())
        stop = len(self.blocks) + 1  # it is stored when the call is over
        if not self._go.any():
            assert kept is not None
            self._reuse = Reuse(self.kind, [(kept, 1.0, 0.0)], len(self.blocks), 0.0)
            return
        self._record(index, stop, [self.KEY], {})
        if not self._all:
            assert kept is not None
            self._known = {piece.ran[-1]: piece for piece in kept}

    def _probed(self, block: Block, args: Any, kwargs: Any) -> Tensor:
        if self.probe is not None:
            return self.probe(block.module, args, kwargs)
        assert self._seen[0] is not None
        return self._seen[0]

    def _added(self) -> Tensor:
        """(B, ...) what the first blocks added in this call."""
        assert self._first is not None
        assert self._seen[0] is not None
        added = [p.values[0] for p in self._first.pieces if p.values[0] is not None]
        if self._first.lost or not added:  # an anchor of another shape than all later ones
            return self._seen[0].new_zeros(len(self._seen[0]), 1)
        if len({len(value) for value in added}) > 1:
            raise RuntimeError(
                f"cache.blocks={self.rule.first}: the first blocks have "
                f"{' and '.join(str(len(value)) for value in added)} rows: set cache.blocks so "
                "that they are of one layout"
            )
        return torch.cat([value.reshape(len(value), -1) for value in added], dim=1)

    def _mixed(self, index: int, block: Block, after: Values) -> Any:
        """Rows that did not want to be computed get what was reused instead."""
        recorder: Recorder = self._recordings[0].recorder
        recorder.end()
        known, made = self._known.get(index), recorder.pieces[-1]
        if known is None or (known.ran, known.shapes) != (made.ran, made.shapes):
            self._all = True  # the model steps between other blocks now: computed is right for all
            return block.streams.packed(block, after)
        assert self._go is not None
        start = None if self.kind == "output" else recorder.begun
        reused = combined(start, [(known.values, 1.0, 0.0)])
        kept = by_row(self._go, made.values, known.values)
        recorder.pieces[-1] = replace(made, values=kept)
        return block.streams.packed(block, by_row(self._go, after, reused))


def generation_of(plan: CachePlan) -> type[Generation]:
    """What runs a plan."""
    return Generation if plan.decide is None else Deciding
