"""One generation of a model that is not ours: what its blocks do in each step, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..engines.program import Key, compile_plan
from ..plans.plan import CachePlan
from .streams import Block, Streams, Values, combined, less, owned

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

    def trace(self, branch: str | None) -> np.ndarray:
        """See `Attached.trace`."""
        raise RuntimeError(f"{self.plan.method} decides nothing at run time")

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
