"""The cache of a model that is not ours, from when it is attached until it is taken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..caches import NoCacheConfig
from ..calibration import Calibration
from ..plans.plan import CachePlan
from .counter import StepCounter
from .deciding import generation_of
from .generation import Generation, Probe
from .measuring import Measuring
from .plans import fingerprint, foreign_plan, measured
from .search import Found, relative_error, search_windows
from .streams import Block, Streams


class Attached:
    """The cache of a model; `attach` makes one, `disable` takes it off again."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        streams: Streams,
        n_steps: int,
        kind: str,
        branches: Sequence[str],
        counter: StepCounter | None,
        probe: Probe | None,
    ) -> None:
        self.model, self.blocks, self.streams = model, blocks, streams
        self.n_steps, self.kind, self.branches = n_steps, kind, tuple(branches)
        self.counter, self.probe = counter, probe
        self.fingerprint = fingerprint(model)
        self.enabled = False
        self._counting: Any = None
        self._measured: Calibration | None = None
        self._generation = self._made(self._plan(NoCacheConfig()))

    # --- verbs

    def enable(self) -> Attached:
        """Put the cache on the blocks.

        Raises:
            RuntimeError: it is on already, or something else has replaced a block's forward.
        """
        taken = [block.name for block in self.blocks if "forward" in vars(block.module)]
        if taken:
            raise RuntimeError(f"{taken[0]} has a replaced forward already: take that off first")
        for index, block in enumerate(self.blocks):
            # an instance attribute, which `disable` deletes: the class is never touched
            block.module.forward = partial(self._forward, index, block, block.module.forward)
        if self.counter is not None:
            self._counting = self.counter.watch(self.model, self.reset, self.step)
        self.enabled = True
        self.reset()
        return self

    def disable(self) -> None:
        """Take the cache off; the model is as it was. Does nothing where it is off."""
        if not self.enabled:
            return
        for block in self.blocks:
            del block.module.forward
        if self._counting is not None:
            self._counting.remove()
            self._counting = None
        self.enabled = False
        self.reset()

    def reset(self) -> None:
        """Forget stored values: the next call is step 0 of a new generation."""
        self._generation.reset()
        if self.counter is not None:
            self.counter.calls = 0

    begin = reset

    def clear(self) -> None:
        """`reset`, and the statistics are zero."""
        self.reset()
        self.computed[:] = 0
        self.hits[:] = 0

    def step(self, step: int, branch: str | None = None) -> None:
        """The next call of the model is this step of this guidance branch.

        Raises:
            ValueError: an unknown branch. RuntimeError: not the branch's next step.
        """
        self._generation.step(step, branch)

    def update_config(self, cache: Any) -> None:
        """Another cache from the next generation on.

        Args:
            cache: a config of none, uniform, interval, deepcache, taylor, teacache (after
                `calibrate`) or first_block, or a plan of this model.

        Raises:
            TypeError, ValueError: it does not fit; the old one stays.
        """
        self._generation = self._made(self._plan(cache))
        self.clear()

    def summary(self) -> dict[str, Any]:
        """What ran since `clear`: cells, their share, bytes held now, and the plan."""
        ran = self.computed.sum() + self.hits.sum()
        return {
            "method": self.plan.method,
            "plan": self.plan.digest(),
            "enabled": self.enabled,
            "computed": int(self.computed.sum()),
            "hits": int(self.hits.sum()),
            "computed_share": float(self.computed.sum() / ran) if ran else 1.0,
            "planned_share": float(self.plan.mask.mean()),
            "cache_bytes": self._generation.cache_bytes,
        }

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, with the model's fingerprint."""
        self.plan.save(path)

    def load(self, path: str | Path) -> None:
        """Use a saved plan; PlanError where it is of another model."""
        self.update_config(CachePlan.load(path))

    def search(
        self,
        run: Callable[[], Tensor],
        score: Callable[[Tensor, Tensor], float] = relative_error,
        ratio: float = 1.3,
        intervals: Sequence[int] = (2, 3, 4),
        starts: Sequence[int] = (0, 5),
        path: str | Path | None = None,
    ) -> list[Found]:
        """Try every window of blocks that meets a ratio, and use the best.

        Args:
            run: one generation of the model, the same every time; it calls `begin` and `step`, or
                leaves that to the counter.
            score: (output, the uncached output) -> error, lower is better.
            ratio: blocks of an uncached generation over those computed, at least this.
            intervals: of the candidates.
            starts: of the candidates.
            path: where the candidates and their scores are written, as JSON.

        Returns:
            All candidates, best first. If `run` raises, the cache from before is used again.
        """
        assert self.enabled, "enable() comes first"
        before = self.plan
        try:
            found = search_windows(self, run, score, ratio, intervals, starts, path)
        except BaseException:
            self.update_config(before)
            raise
        self.update_config(found[0].config)
        return found

    def calibrate(self, run: Callable[[], Any]) -> None:
        """Measure an uncached generation, which teacache's polynomial is fitted on.

        Args:
            run: as for `search`; more rows in its batch, or more generations in one call with
                `begin` between them, make it steadier.
        """
        assert self.enabled, "enable() comes first"
        measuring = self._made(self._plan(NoCacheConfig()), Measuring)
        before, self._generation = self._generation, measuring
        try:
            run()
            assert isinstance(measuring, Measuring)
            self._measured = measured(self.blocks, self.kind, self.fingerprint, measuring.arrays)
        finally:
            self._generation = before
            self.reset()

    # --- running

    @property
    def plan(self) -> CachePlan:
        return self._generation.plan

    @property
    def computed(self) -> np.ndarray:
        """(steps, blocks) how often each block ran since `clear`."""
        return self._generation.computed

    @property
    def hits(self) -> np.ndarray:
        """(steps, blocks) how often it did not."""
        return self._generation.hits

    def trace(self, branch: str | None = None) -> np.ndarray:
        """(B, steps so far) what the rows of a batch decided in the last generation.

        Raises:
            RuntimeError: the cache decides nothing.
        """
        return self._generation.trace(branch)

    def _plan(self, cache: Any) -> CachePlan:
        return foreign_plan(
            cache, self.blocks, self.n_steps, self.fingerprint, self.kind, self._measured
        )

    def _made(self, plan: CachePlan, kind: type[Generation] | None = None) -> Generation:
        kind = kind or generation_of(plan)
        return kind(plan, self.blocks, self.streams, self.kind, self.branches, self.probe)

    def _forward(
        self, index: int, block: Block, compute: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        return self._generation.forward(index, block, compute, *args, **kwargs)
