"""The cache of a model that is not ours, from when it is attached until it is taken off."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..caches import NoCacheConfig
from ..calibration import Calibration
from ..plans.plan import CachePlan
from .counter import StepCounter
from .deciding import generation_of
from .generation import Generation, Probe
from .measuring import Measuring
from .plans import fingerprint, fitted, foreign_plan, measured
from .search import Found, Output, relative_error, search_windows
from .streams import Block
from .watching import Watch

log = logging.getLogger(__name__)


class Attached:
    """The cache of a model; `attach` makes one, `disable` takes it off again."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        n_steps: int,
        kind: str,
        branches: Sequence[str],
        counter: StepCounter | None,
        probe: Probe | None,
    ) -> None:
        self.model, self.blocks = model, blocks
        self.n_steps, self.kind, self.branches = n_steps, kind, tuple(branches)
        self.counter, self.probe = counter, probe
        self.fingerprint = fingerprint(model)
        self._watch = Watch(self)
        self._measured: Calibration | None = None
        self._generation = self._made(self._plan(NoCacheConfig()))

    # --- verbs

    def enable(self) -> Attached:
        """Put the cache on the blocks.

        Raises:
            RuntimeError: it is on already, or something else has replaced a block's forward.
        """
        self._watch.put()
        self._forget()
        return self

    def disable(self) -> None:
        """Take the cache off; the model is as it was. Does nothing where it is off.

        What another tool put around it since, such as offloading, stays and works on.
        """
        self._watch.take()
        self._forget()

    @property
    def enabled(self) -> bool:
        """Whether it is on."""
        return self._watch.on

    def reset(self) -> None:
        """Forget stored values: the next call is step 0 of a new generation.

        Raises:
            RuntimeError: no block ran in the generation before, or one of them did not; or the
                model is not the one that the cache was calibrated on.
        """
        if self.counter is not None:
            self.counter.reset()
        self.renew()

    begin = reset

    def clear(self) -> None:
        """Forget stored values, and the statistics are zero."""
        self._forget()
        self.computed[:] = 0
        self.hits[:] = 0

    def step(self, step: int, branch: str | None = None) -> None:
        """The next call of the model is this step of this guidance branch.

        While the cache is off it does nothing. A branch may leave out steps that another one runs.

        Raises:
            ValueError: an unknown branch. RuntimeError: not a step that can come next, or no block
                ran in the one before.
        """
        if self.enabled:
            self._watch.guard()
            self._generation.step(step, branch)

    def update_config(self, cache: Any) -> None:
        """Another cache from the next generation on.

        Args:
            cache: a config of none, uniform, interval, deepcache, taylor, teacache (after
                `calibrate`) or first_block, or a plan of this model.

        Raises:
            TypeError, ValueError: it does not fit; the old one stays.
        """
        self.fingerprint = fingerprint(self.model)
        self._generation = self._made(self._plan(cache))
        self.clear()

    def summary(self) -> dict[str, Any]:
        """What ran since `clear`: cells, their share, bytes held now, and the plan.

        Raises:
            RuntimeError: steps were announced, and no block ran.
        """
        self._check_ran()
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
        """Write the plan as JSON, with the model's fingerprint.

        Raises:
            RuntimeError: the model has changed since the plan was made, or no block ran.
        """
        self._check_ran()
        self._check_model()
        self.plan.save(path)

    def load(self, path: str | Path) -> None:
        """Use a saved plan; PlanError where it is of another model."""
        self.update_config(CachePlan.load(path))

    def search(
        self,
        run: Callable[[], Output],
        score: Callable[[Any, Any], float] = relative_error,
        ratio: float = 1.3,
        intervals: Sequence[int] = (2, 3, 4),
        starts: Sequence[int] = (0, 5),
        path: str | Path | None = None,
    ) -> list[Found]:
        """Try every window of blocks that meets a ratio, and use the best.

        Args:
            run: one generation of the model, the same every time; it calls `begin` and `step`, or
                leaves that to the counter. It returns a tensor, an array, or a list of them.
            score: (output, the uncached output) -> error, lower is better.
            ratio: blocks of an uncached generation over those computed, at least this.
            intervals: of the candidates.
            starts: of the candidates.
            path: where the candidates and their scores are written, as JSON.

        Returns:
            All candidates, best first. If `run` raises, the cache from before is used again.

        Raises:
            RuntimeError: the cache is off, or `run` runs no block.
        """
        self._check_on()
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

        Raises:
            RuntimeError: the cache is off, or `run` does not run a whole generation of one batch.
        """
        self._check_on()
        self.fingerprint = fingerprint(self.model)
        measuring = self._made(self._plan(NoCacheConfig()), Measuring)
        before, self._generation = self._generation, measuring
        try:
            self._forget()
            run()
            measuring.check_ran()
            assert isinstance(measuring, Measuring)
            self._measured = measured(self.blocks, self.kind, self.fingerprint, measuring.arrays)
        finally:
            self._generation = before
            self._forget()

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
            RuntimeError: the cache decides nothing, no block ran, or the batch changed.
        """
        self._check_ran()
        return self._generation.trace(branch)

    def renew(self) -> None:
        """`reset`, by a counter that goes on."""
        try:
            self._check_ran()
        finally:
            self._generation.reset()
        if self.enabled and fitted(self.plan):
            self._check_model()

    @property
    def generation(self) -> Generation:
        """What runs now."""
        return self._generation

    def _plan(self, cache: Any) -> CachePlan:
        return foreign_plan(
            cache, self.blocks, self.n_steps, self.fingerprint, self.kind, self._measured
        )

    def _made(self, plan: CachePlan, kind: type[Generation] | None = None) -> Generation:
        kind = kind or generation_of(plan)
        return kind(plan, self.blocks, self.kind, self.branches, self.probe)

    def _forget(self) -> None:
        self._generation.reset()
        if self.counter is not None:
            self.counter.reset()

    def _check_on(self) -> None:
        if not self.enabled:
            raise RuntimeError("the cache is off: enable() comes first")

    def _check_ran(self) -> None:
        if self.enabled:
            self._generation.check_ran()

    def _check_model(self) -> None:
        if fingerprint(self.model) != self.plan.policy:
            raise RuntimeError(
                f"the model has changed since its plan was made ({self.plan.method}): "
                "calibrate(run) again where that is needed, and update_config(cache)"
            )
