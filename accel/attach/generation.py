"""One generation of a model that is not ours: what its blocks do in each step, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..engines.program import Key, compile_plan
from ..plans.plan import CachePlan
from ..plans.thresholds import Decisions
from .streams import Block, Streams, Values, by_row, combined, less, owned

Term = tuple[Key, float]
Probe = Callable[[nn.Module, Any, Any], Tensor]


@dataclass(frozen=True)
class Action:
    """What a block does in a step.

    add: None computes; () passes its input on; terms end a run of hits.
    """

    add: tuple[Term, ...] | None
    opens: tuple[Key, ...] = ()
    closes: tuple[Key, ...] = ()


class Generation:
    """A plan on the blocks of a model.

    Args:
        plan: of these blocks.
        blocks: in order.
        streams: that they pass on.
        kind: delta or output, see `attach`.
        branches: names of guidance branches.
        probe: of plans that decide, see `attach`.
    """

    def __init__(
        self,
        plan: CachePlan,
        blocks: Sequence[Block],
        streams: Streams,
        kind: str,
        branches: Sequence[str],
        probe: Probe | None = None,
    ) -> None:
        self.plan, self.streams, self.kind = plan, streams, kind
        self.branches, self.last = tuple(branches), len(blocks) - 1
        self.probe: Probe = probe or (lambda module, args, kwargs: self._seen[0])
        self.computed = np.zeros(plan.mask.shape, dtype=np.int64)
        self.hits = np.zeros_like(self.computed)
        program = compile_plan(plan)
        self._drops = [step.drops for step in program]
        self._table: list[list[Action]] = []
        for now in program:
            row: list[Action] = []
            for segment in now.segments:
                for site in range(segment.start, segment.stop):
                    if segment.add is None:
                        opens = tuple(now.opens.get(site, ()))
                        row.append(Action(None, opens, tuple(now.closes.get(site + 1, ()))))
                    else:
                        row.append(Action(segment.add if site + 1 == segment.stop else ()))
            self._table.append(row)
        self.reset()

    def reset(self) -> None:
        """Forget stored values: the next call is step 0."""
        self._at = {branch: -1 for branch in self.branches}
        self._kept: dict[str, dict[Key, Values]] = {branch: {} for branch in self.branches}
        self._starts: dict[Key, Values] = {}
        self._called, self._seen = False, ()  # type: tuple[bool, Any]

    @property
    def cache_bytes(self) -> int:
        held = [t for kept in self._kept.values() for values in kept.values() for t in values]
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    def step(self, step: int, branch: str | None) -> None:
        """See `Attached.step`."""
        branch = self.branches[0] if branch is None else branch
        if branch not in self.branches:
            raise ValueError(f"branch must be one of {', '.join(self.branches)}, got {branch!r}")
        expected, n_steps = self._at[branch] + 1, self.plan.n_steps
        if step != expected or step >= n_steps:
            wanted = f"must be {expected}" if expected < n_steps else "needs begin() first"
            raise RuntimeError(f"step {wanted} in branch {branch}, got {step}")
        for key in self._drops[step - 1] if step else ():
            self._kept[branch].pop(key, None)
        self._at[branch], self._now, self._last = step, branch, -1
        self._called, self._step, self._starts = True, step, {}

    def forward(
        self, index: int, block: Block, compute: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """In place of a block's own."""
        if not self._called or index <= self._last:
            raise RuntimeError(
                "the model was called without step(): call begin() before a generation and "
                "step(s, branch) before every call of the model"
            )
        self._last = index
        return self._run(index, block, compute, args, kwargs)

    def _run(
        self, index: int, block: Block, compute: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        action, streams = self._table[self._step][index], self.streams
        if action.add is not None:
            self.hits[self._step, index] += 1
            values = streams.into(block, args, kwargs)
            if action.add:
                kept = self._kept[self._now]
                terms = [(kept[key], coefficient) for key, coefficient in action.add]
                values = combined(None if self.kind == "output" else values, terms)
            return streams.packed(block, values)
        self.computed[self._step, index] += 1
        if action.opens:
            start = owned(streams.into(block, args, kwargs))
            self._starts.update(dict.fromkeys(action.opens, start))
        out = compute(*args, **kwargs)
        streams.learn(block, out)
        if action.closes:
            values = streams.after(block, out, args, kwargs)
            for key in action.closes:
                self._kept[self._now][key] = self._stored(values, self._starts.pop(key))
        return out

    def _stored(self, values: Values, start: Values) -> Values:
        return owned(values) if self.kind == "output" else less(values, start)


class Deciding(Generation):
    """A plan that decides at run time, row by row: blocks run if any row wants them."""

    KEY: Key = (0, 0, 0)

    def reset(self) -> None:
        super().reset()
        assert self.plan.decide is not None
        self.rule = self.plan.decide
        self.decisions = {branch: Decisions(self.rule, None) for branch in self.branches}

    @property
    def cache_bytes(self) -> int:
        probes = [d.before for d in self.decisions.values() if d.before is not None]
        return super().cache_bytes + sum(probe.nbytes for probe in probes)

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
        if self.rule.probe == "norm":
            probe = self.probe(block.module, args, kwargs)
        else:
            probe = seen[0] - first
        self.go = self.decisions[self._now](self._step, probe.float())
        self.any, self.all = bool(self.go.any()), bool(self.go.all())

    def _reused(self) -> Values:
        start = None if self.kind == "output" else self._start
        return combined(start, [(self._kept[self._now][self.KEY], 1.0)])


class Measuring(Generation):
    """Everything computed; how the probe and what all blocks add change from step to step."""

    def reset(self) -> None:
        super().reset()
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self.changes: dict[str, list[np.ndarray]] = {branch: [] for branch in self.branches}

    @property
    def measured(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, N) of the probe and of what is added, 0 in step 0; rows of all branches."""
        rows = np.concatenate([np.stack(found, axis=1) for found in self.changes.values()])
        return rows[..., 0], rows[..., 1]

    def _run(
        self, index: int, block: Block, compute: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        if index == 0:
            self._seen = owned(self.streams.into(block, args, kwargs))
            self._probed = _rows(self.probe(block.module, args, kwargs))
        out = super()._run(index, block, compute, args, kwargs)
        if index == self.last:
            added = less(self.streams.after(block, out, args, kwargs), self._seen)[0]
            assert added is not None
            now = self._probed, _rows(added)
            before = self._before.get(self._now, now)
            change = [
                ((a - b).abs().sum(1).double() / b.abs().sum(1).double()).cpu()
                for a, b in zip(now, before, strict=True)
            ]
            self.changes[self._now].append(torch.stack(change, dim=1).numpy())
            self._before[self._now] = now
        return out


def _rows(values: Tensor) -> Tensor:
    return values.float().reshape(len(values), -1)
