"""Caching the blocks of any diffusion transformer: attach, run generations, detach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..caches import NoCacheConfig
from ..plans.plan import CachePlan
from .counter import StepCounter
from .generation import Deciding, Generation, Measuring, Probe
from .plans import Measured, fingerprint, foreign_plan
from .search import Found, relative_error, search_windows
from .streams import Block, Streams, find_blocks


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
        self._measured: Measured | None = None
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
            self._measured = Measured(*measuring.measured)
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
        if not isinstance(self._generation, Deciding):
            raise RuntimeError(f"{self.plan.method} decides nothing at run time")
        return self._generation.decisions[branch or self.branches[0]].trace

    def _plan(self, cache: Any) -> CachePlan:
        return foreign_plan(
            cache, self.blocks, self.n_steps, self.fingerprint, self.kind, self._measured
        )

    def _made(self, plan: CachePlan, kind: type[Generation] | None = None) -> Generation:
        kind = kind or (Deciding if plan.decide else Generation)
        return kind(plan, self.blocks, self.streams, self.kind, self.branches, self.probe)

    def _forward(
        self, index: int, block: Block, compute: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        return self._generation.forward(index, block, compute, *args, **kwargs)


def attach(
    model: nn.Module,
    blocks: Sequence[str],
    n_steps: int,
    cache: Any = None,
    streams: Sequence[str] = ("hidden_states",),
    outputs: Sequence[str] | None = None,
    kind: str = "delta",
    branches: Sequence[str] = ("main",),
    timesteps: Sequence[float] | None = None,
    timestep: str = "timestep",
    probe: Probe | None = None,
) -> Attached:
    """Cache the blocks of a diffusion transformer that is not ours.

    Before a generation call `begin()`, before every call of the model `step(s, branch)`.

    Args:
        model: any module.
        blocks: paths of its nn.ModuleLists of blocks, in the order in which they run.
        n_steps: calls of the model in a generation, of one branch.
        cache: as `Attached.update_config`; None computes everything.
        streams: arguments of a block that its blocks pass on, by keyword or position.
        outputs: streams in the order in which a block returns them; None: as `streams`.
        kind: delta reuses what a run of blocks adds to its input, output what it puts out.
        branches: names of guidance branches that call the model in turn, with states of their own.
        timesteps: of the steps; then nothing needs to be called: steps are counted, and a call
            whose timestep is another one than counted is refused. Reading it waits for the device.
        timestep: the model's argument that holds it.
        probe: of teacache, (the first block, its args, its kwargs) -> (B, ...); None is the first
            stream that it gets. A model's modulated input, its first norm's output, is better.

    Returns:
        The cache, enabled.

    Raises:
        ValueError, TypeError: blocks, streams or cache that do not fit the model.

    Example:
        >>> import torch
        >>> from accel import IntervalConfig
        >>> class Block(nn.Linear):
        ...     def forward(self, hidden_states):
        ...         return hidden_states + super().forward(hidden_states)
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.blocks = nn.ModuleList(Block(8, 8) for _ in range(4))
        ...     def forward(self, x):
        ...         for block in self.blocks:
        ...             x = block(x)
        ...         return x
        >>> model = Model().eval()
        >>> cached = attach(model, ["blocks"], n_steps=6, cache=IntervalConfig(interval=3, start=0))
        >>> cached.begin()
        >>> for step in range(6):
        ...     cached.step(step)
        ...     x = model(torch.ones(1, 2, 8))
        >>> cached.summary()["computed"], cached.summary()["hits"]
        (8, 16)
        >>> cached.disable()
    """
    outputs = tuple(streams) if outputs is None else tuple(outputs)
    if not set(outputs) <= set(streams) or len(set(outputs)) != len(outputs) or not outputs:
        raise ValueError(f"outputs must be among {', '.join(streams)}, got {', '.join(outputs)}")
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    if not branches or len(set(branches)) != len(branches):
        raise ValueError(f"branches must be distinct names, got {list(branches)}")
    if timesteps is not None and len(timesteps) != n_steps:
        raise ValueError(f"timesteps must be {n_steps}, one a step, got {len(timesteps)}")
    counter = None if timesteps is None else StepCounter(model, timesteps, timestep, branches)
    found = find_blocks(model, blocks, streams)
    passed = Streams(streams, outputs)
    attached = Attached(model, found, passed, n_steps, kind, branches, counter, probe)
    if cache is not None:
        attached.update_config(cache)
    return attached.enable()
