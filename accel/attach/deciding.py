"""One generation in which the rows of a batch decide at run time what its blocks do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..engines.program import Key
from ..plans.decisions import Decisions
from ..plans.plan import CachePlan
from .generation import Generation
from .pieces import Piece, Recorder, Reuse
from .streams import Block
from .values import Values, by_row, combined, named, owned, shapes_of


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
            self._seen = owned(values)
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
            "residual": lambda: self._added(block, values).float(),
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

    def _added(self, block: Block, values: Values) -> Tensor:
        now, first = values[0], self._seen[0]
        if now is None or first is None or now.shape != first.shape:
            raise RuntimeError(
                f"{block.name} gets {named(shapes_of(values[:1]))}, the first block "
                f"{named(shapes_of(self._seen[:1]))}: first_block compares the two; set "
                "cache.blocks so that it begins in the first stack"
            )
        return now - first

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
