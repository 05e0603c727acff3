"""One generation of a model that is not ours: what its blocks do in each step, and what is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..engines.program import Key
from ..plans.plan import CachePlan
from .actions import Action, StepActions, actions_of
from .calls import Calls
from .pieces import Piece, Recorder, Reuse
from .streams import Block
from .values import Values, owned

log = logging.getLogger(__name__)

Probe = Callable[[nn.Module, Any, Any], Tensor]


@dataclass
class Recording:
    """What a run of blocks adds in this step, and where it will be kept.

    before: {key: pieces of it that stay as they are}, in front of those that are noted.
    """

    recorder: Recorder
    keys: Sequence[Key]
    before: dict[Key, list[Piece]] = field(default_factory=dict)


class Generation:
    """A plan on the blocks of a model.

    Args:
        plan: of these blocks.
        blocks: in order.
        kind: delta or output, see `attach`.
        branches: names of guidance branches.
        probe: of plans that decide, see `attach`.
    """

    def __init__(
        self,
        plan: CachePlan,
        blocks: Sequence[Block],
        kind: str,
        branches: Sequence[str],
        probe: Probe | None = None,
    ) -> None:
        self.plan, self.blocks, self.kind = plan, blocks, kind
        self.last, self.probe = len(blocks) - 1, probe
        self.names = [block.name for block in blocks]
        self.calls = Calls(branches, plan.n_steps, self.names)
        self.computed = np.zeros(plan.mask.shape, dtype=np.int64)
        self.hits = np.zeros_like(self.computed)
        self.cutoff = 0.0 if plan.bands is None else plan.bands.cutoff
        self._steps: list[StepActions] = actions_of(plan)
        self._in_place: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Forget stored values: the next call is step 0."""
        self.calls.reset()
        self._kept: dict[str, dict[Key, list[Piece]]] = {name: {} for name in self.calls.branches}
        self._forget_call()

    def _forget_call(self) -> None:
        self._recordings: list[Recording] = []
        self._reuse: Reuse | None = None
        self._again = 0  # blocks before this one are computed, whatever the plan says

    def check_ran(self) -> None:
        """Refuse that nothing happened.

        Raises:
            RuntimeError: no block ran in the steps so far, or one in no step of a generation.
        """
        self.calls.check_ran()
        if max(self.calls.at.values()) + 1 < self.plan.n_steps:
            return
        never = np.flatnonzero((self.computed + self.hits).sum(axis=0) == 0)
        if len(never):
            raise RuntimeError(
                f"{self.names[never[0]]} ran in no step of a generation, so nothing of it is "
                f"cached ({len(never)} of {len(self.names)} blocks): list blocks that run"
            )

    def trace(self, branch: str | None) -> np.ndarray:
        """See `Attached.trace`."""
        raise RuntimeError(f"{self.plan.method} decides nothing at run time")

    @property
    def cache_bytes(self) -> int:
        pieces = {
            id(p): p for kept in self._kept.values() for found in kept.values() for p in found
        }
        held = [tensor for piece in pieces.values() for tensor in piece.values]
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    def step(self, step: int, branch: str | None) -> None:
        """See `Attached.step`."""
        if not self.calls.aborted:
            self.end_of_call()
        self._forget_call()
        skipped = self.calls.announce(step, branch)
        kept = self._kept[self.calls.branch]
        for passed in skipped:
            for key in self._steps[passed].drops:
                kept.pop(key, None)
        self._step, self._now = step, self._steps[step]
        self._waiting = list(self._now.anchors)

    def forward(
        self, index: int, block: Block, compute: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """In place of a block's own."""
        self.calls.arrive(index)
        if self._recordings or self._reuse is not None:
            self._end_runs(index)
        return self._run(index, block, compute, args, kwargs)

    def end_of_call(self) -> None:
        """All blocks of a call have run.

        Raises:
            RuntimeError: one did not where something was to be added after it.
        """
        self._end_runs(len(self.blocks) + 1)

    def _end_runs(self, index: int) -> None:
        """Runs that stop before a block are over."""
        for recording in [r for r in self._recordings if r.recorder.stop <= index]:
            recording.recorder.end()
            self._store(recording)
        if self._reuse is not None and self._reuse.stop <= index:
            reuse, self._reuse = self._reuse, None
            reuse.end(self.names)

    def _store(self, recording: Recording) -> None:
        self._recordings.remove(recording)
        kept, found = self._kept[self.calls.branch], recording.recorder
        for key in recording.keys:
            if found.lost or not found.pieces:
                kept.pop(key, None)
            else:
                kept[key] = [*recording.before.get(key, ()), *found.pieces]

    # --- what blocks do

    def _run(
        self, index: int, block: Block, compute: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        action = self._now.actions[index]
        if action.terms is not None and index >= self._again:
            values = block.streams.into(block, args, kwargs)
            if not action.terms:  # every coefficient is zero
                self.hits[self._step, index] += 1
                return block.streams.packed(block, values)
            if self._reuse is None:
                self._reuse = self._reused(action)
            if self._reuse is not None and self._reuse.fits(index, values):
                return self._hit(index, block, values)
            self._compute_again(index, action)
        return self._computed(index, block, compute, args, kwargs)

    def _hit(self, index: int, block: Block, values: Values) -> Any:
        assert self._reuse is not None
        self.hits[self._step, index] += 1
        return block.streams.packed(block, self._reuse.pass_on(index, block.name, values))

    def _reused(self, action: Action) -> Reuse | None:
        """What a run of hits adds; None where this branch did not keep it."""
        kept = self._kept[self.calls.branch]
        terms = [(kept.get(key), high, low) for key, high, low in action.terms or ()]
        found = [(pieces, high, low) for pieces, high, low in terms if pieces is not None]
        if len(found) < len(terms):
            return None
        return Reuse(self.kind, found, action.stop, self.cutoff)

    def _compute_again(self, index: int, action: Action) -> None:
        """Compute a run of hits that has nothing to add, or something of another shape."""
        assert action.terms is not None
        self._give_up(index, action.stop, [key for key, *_ in action.terms])

    def _give_up(self, index: int, stop: int, keys: Sequence[Key]) -> None:
        if self._reuse is not None:
            self._reuse.check_stop(index, self.names[index])
        self._reuse, self._again = None, stop
        kept = self._kept[self.calls.branch]
        before = {key: [p for p in kept.get(key, ()) if p.ran[-1] < index] for key in keys}
        log.info(
            "step %d, branch %s: %s is computed, what is kept is of another shape or of no step",
            self._step,
            self.calls.branch,
            self.names[index],
        )
        self._record(index, stop, keys, before)

    def _record(
        self, start: int, stop: int, keys: Sequence[Key], before: dict[Key, list[Piece]]
    ) -> Recorder:
        recorder = Recorder(self.kind, stop, self._in_place)
        self._recordings.append(Recording(recorder, keys, before))
        return recorder

    def _computed(
        self, index: int, block: Block, compute: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run a block, and note what it adds where that is wanted."""
        self.computed[self._step, index] += 1
        while self._waiting and self._waiting[-1][1] <= index:
            key = self._waiting.pop()
            if index < key[2]:
                self._record(index, key[2], [key], {})
        recordings = self._recordings
        if recordings:
            values = block.streams.into(block, args, kwargs)
            copies: list[Values] = []  # one for all of them

            def copy() -> Values:
                if not copies:
                    copies.append(owned(values))
                return copies[0]

            for recording in recordings:
                recording.recorder.enter(index, block.streams, values, copy)
        out = compute(*args, **kwargs)
        if block.form is None:
            block.learn(out)
        if recordings:
            after = block.streams.after(block, out, args, kwargs)
            for recording in list(recordings):
                recording.recorder.leave(index, after)
                if index + 1 == recording.recorder.stop:
                    self._store(recording)
        return out
