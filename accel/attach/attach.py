"""Caching the blocks of any diffusion transformer: attach, run generations, detach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .attached import Attached
from .counter import Scale, StepCounter, Timesteps
from .generation import Probe
from .streams import Names, find_blocks


def attach(
    model: nn.Module,
    blocks: Sequence[str],
    n_steps: int,
    cache: Any = None,
    streams: Names = ("hidden_states",),
    outputs: Names | None = None,
    kind: str = "delta",
    branches: Sequence[str] = ("main",),
    timesteps: Timesteps | None = None,
    timestep: str = "timestep",
    timestep_scale: Scale = 1.0,
    probe: Probe | None = None,
) -> Attached:
    """Cache the blocks of a diffusion transformer that is not ours.

    Before a generation call `begin()`, before every call of the model `step(s, branch)`.

    Args:
        model: any module.
        blocks: paths of its nn.ModuleLists of blocks, in the order in which they run; of single
            blocks where stacks alternate.
        n_steps: calls of the model in a generation, of one branch.
        cache: as `Attached.update_config`; None computes everything.
        streams: arguments of a block that its blocks pass on, by keyword or position; {path: those
            of its blocks} where they differ.
        outputs: streams in the order in which a block returns them; None: as `streams`.
        kind: delta reuses what a run of blocks adds to its input, output what it puts out.
        branches: names of guidance branches that call the model in turn, with states of their own.
        timesteps: of the steps, as the scheduler has them, or a function that gives them when a
            generation begins (lambda: pipe.scheduler.timesteps); then nothing needs to be called:
            steps are counted, and a call whose timestep is another one than counted, to the
            rounding of its type, is refused. A branch may begin late and end early. Reading it
            waits for the device.
        timestep: the model's argument that holds it.
        timestep_scale: what a pipeline multiplies timesteps by before the model gets them (Flux:
            0.001), or a function that gives what it gets.
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
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    if isinstance(branches, str) or not branches or len(set(branches)) != len(branches):
        raise ValueError(f"branches must be distinct names, got {branches!r}")
    found = find_blocks(model, blocks, streams, outputs)
    counter = (
        None
        if timesteps is None
        else StepCounter(model, timesteps, n_steps, timestep, branches, timestep_scale)
    )
    attached = Attached(model, found, n_steps, kind, branches, counter, probe)
    if cache is not None:
        attached.update_config(cache)
    return attached.enable()
