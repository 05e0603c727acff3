"""Caching the blocks of any diffusion transformer: attach, run generations, detach."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from .caches import NoCacheConfig
from .engines.schedule import Key, compile_plan
from .foreign import Block, Values, combined, find_blocks, fingerprint, foreign_plan, less
from .plan import CachePlan
from .window_search import Found, relative_error, search_windows

Term = tuple[Key, float]


@dataclass(frozen=True)
class Action:
    """What a block does in a step.

    add: None computes; () passes its input on; terms end a run of hits.
    """

    add: tuple[Term, ...] | None
    opens: tuple[Key, ...] = ()
    closes: tuple[Key, ...] = ()


class Attached:
    """The cache of a model; `attach` makes one, `disable` takes it off again."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        streams: Sequence[str],
        outputs: Sequence[str],
        n_steps: int,
        kind: str,
        branches: Sequence[str],
        timesteps: Sequence[float] | None,
        timestep: str,
    ) -> None:
        self.model, self.blocks, self.streams = model, blocks, tuple(streams)
        self.order = [self.streams.index(stream) for stream in outputs]
        self.n_steps, self.kind, self.branches = n_steps, kind, tuple(branches)
        self.timesteps, self.timestep = timesteps, timestep
        self.fingerprint = fingerprint(model)
        self.enabled = False
        self.computed = np.zeros((n_steps, len(blocks)), dtype=np.int64)
        self.hits = np.zeros_like(self.computed)
        self._counter: Any = None
        self.plan = self._use(NoCacheConfig())

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
        if self.timesteps is not None:
            self._counter = self.model.register_forward_pre_hook(self._count, with_kwargs=True)
        self.enabled = True
        self.reset()
        return self

    def disable(self) -> None:
        """Take the cache off; the model is as it was. Does nothing where it is off."""
        if not self.enabled:
            return
        for block in self.blocks:
            del block.module.forward
        if self._counter is not None:
            self._counter.remove()
            self._counter = None
        self.enabled = False
        self.reset()

    def reset(self) -> None:
        """Forget stored values: the next call is step 0 of a new generation."""
        self._at = {branch: -1 for branch in self.branches}
        self._kept: dict[str, dict[Key, Values]] = {branch: {} for branch in self.branches}
        self._starts: dict[Key, Values] = {}
        self._row: list[Action] | None = None
        self._calls = 0

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
        branch = self.branches[0] if branch is None else branch
        if branch not in self.branches:
            raise ValueError(f"branch must be one of {', '.join(self.branches)}, got {branch!r}")
        if step != self._at[branch] + 1 or step >= self.n_steps:
            expected = self._at[branch] + 1
            wanted = f"must be {expected}" if expected < self.n_steps else "needs begin() first"
            raise RuntimeError(f"step {wanted} in branch {branch}, got {step}")
        for key in self._drops[step - 1] if step else ():
            self._kept[branch].pop(key, None)
        self._at[branch], self._now, self._last = step, branch, -1
        self._row, self._step, self._starts = self._table[step], step, {}

    def update_config(self, cache: Any) -> None:
        """Another cache from the next generation on.

        Args:
            cache: none, uniform, interval, deepcache or taylor as a config, or a plan of this
                model.

        Raises:
            TypeError, ValueError: it does not fit; the old one stays.
        """
        self.plan = self._use(cache)
        self.clear()

    def summary(self) -> dict[str, Any]:
        """What ran since `clear`: cells, their share, bytes held now, and the plan."""
        ran = self.computed.sum() + self.hits.sum()
        held = [t for kept in self._kept.values() for values in kept.values() for t in values]
        return {
            "method": self.plan.method,
            "plan": self.plan.digest(),
            "enabled": self.enabled,
            "computed": int(self.computed.sum()),
            "hits": int(self.hits.sum()),
            "computed_share": float(self.computed.sum() / ran) if ran else 1.0,
            "planned_share": float(self.plan.mask.mean()),
            "cache_bytes": sum(tensor.nbytes for tensor in held if tensor is not None),
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

    # --- running

    def _use(self, cache: Any) -> CachePlan:
        plan = foreign_plan(cache, self.blocks, self.n_steps, self.fingerprint, self.kind)
        program = compile_plan(plan)
        self._drops = [step.drops for step in program]
        self._table: list[list[Action]] = []
        for step in program:
            row: list[Action] = []
            for segment in step.segments:
                for site in range(segment.start, segment.stop):
                    if segment.add is None:
                        opens = tuple(step.opens.get(site, ()))
                        row.append(Action(None, opens, tuple(step.closes.get(site + 1, ()))))
                    else:
                        row.append(Action(segment.add if site + 1 == segment.stop else ()))
            self._table.append(row)
        return plan

    def _forward(
        self, index: int, block: Block, compute: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if self._row is None or index <= self._last:
            raise RuntimeError(
                "the model was called without step(): call begin() before a generation and "
                "step(s, branch) before every call of the model"
            )
        self._last, action = index, self._row[index]
        if action.add is not None:
            self.hits[self._step, index] += 1
            values = block.inputs(self.streams, args, kwargs)
            if action.add:
                kept = self._kept[self._now]
                terms = [(kept[key], coefficient) for key, coefficient in action.add]
                values = combined(None if self.kind == "output" else values, terms)
            return self._packed(block, values)
        self.computed[self._step, index] += 1
        if action.opens:
            got = block.inputs(self.streams, args, kwargs)
            start = tuple(None if v is None else v.clone() for v in got)
            self._starts.update(dict.fromkeys(action.opens, start))
        out = compute(*args, **kwargs)
        if block.form is None:
            block.form = self._form(block, out)
        if action.closes:
            values = self._unpacked(block, out, args, kwargs)
            for key in action.closes:
                start = self._starts.pop(key)
                owned = tuple(None if v is None else v.clone() for v in values)
                stored = owned if self.kind == "output" else less(values, start)
                self._kept[self._now][key] = stored
        return out

    def _form(self, block: Block, out: Any) -> int:
        if isinstance(out, Tensor):
            return 0
        if isinstance(out, tuple) and len(out) == len(self.order):
            return len(out)
        got = f"{len(out)} values" if isinstance(out, tuple) else type(out).__name__
        raise RuntimeError(
            f"{block.name} returns {got}, outputs names {len(self.order)}: "
            f"{', '.join(self.streams[i] for i in self.order)}"
        )

    def _unpacked(self, block: Block, out: Any, args: Any, kwargs: Any) -> Values:
        """Streams after a block; those that it does not return are as they came."""
        values = list(block.inputs(self.streams, args, kwargs))
        for place, value in zip(self.order, out if block.form else (out,), strict=False):
            values[place] = value
        return tuple(values)

    def _packed(self, block: Block, values: Values) -> Any:
        if not block.form:
            return values[self.order[0]]
        return tuple(values[place] for place in self.order)

    def _count(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """The automatic counter: the model's own timestep must be that of the counted step."""
        assert self.timesteps is not None
        if self._calls == self.n_steps * len(self.branches):
            self.reset()
        step, branch = divmod(self._calls, len(self.branches))
        names = list(inspect.signature(model.forward).parameters)
        place = names.index(self.timestep)
        value = kwargs[self.timestep] if self.timestep in kwargs else args[place]
        now = float(value.flatten()[0]) if isinstance(value, Tensor) else float(value)
        if now != float(self.timesteps[step]):
            raise RuntimeError(
                f"the model was called with timestep {now:g}, step {step} has "
                f"{float(self.timesteps[step]):g}: an earlier generation ended early or another "
                "sampler runs; call begin() before a generation"
            )
        self._calls += 1
        self.step(step, self.branches[branch])


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

    Returns:
        The cache, enabled.

    Raises:
        ValueError, TypeError: blocks, streams or cache that do not fit the model.
    """
    outputs = tuple(streams) if outputs is None else tuple(outputs)
    if not set(outputs) <= set(streams) or len(set(outputs)) != len(outputs) or not outputs:
        raise ValueError(f"outputs must be among {', '.join(streams)}, got {', '.join(outputs)}")
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    if not branches or len(set(branches)) != len(branches):
        raise ValueError(f"branches must be distinct names, got {list(branches)}")
    if timesteps is not None:
        if len(timesteps) != n_steps:
            raise ValueError(f"timesteps must be {n_steps}, one a step, got {len(timesteps)}")
        if timestep not in inspect.signature(model.forward).parameters:
            raise ValueError(f"timestep: {type(model).__name__} takes no {timestep!r}")
    found = find_blocks(model, blocks, streams)
    attached = Attached(
        model, found, streams, outputs, n_steps, kind, branches, timesteps, timestep
    )
    if cache is not None:
        attached.update_config(cache)
    return attached.enable()
