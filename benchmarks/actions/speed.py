"""Latency at batch 1 of the fused engine: arms and the plain policy in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from accel import accelerated
from benchmarks.rounds import beside, interleave

from .measure import Program
from .questions import Questions

AT_ONCE = 16  # arms that are held in memory together
PLAIN = "plain"


def latencies(
    programs: Mapping[str, Program], plain: Program, asked: Questions, rounds: int, warmup: int
) -> dict[str, dict[str, Any]]:
    """Percentiles over rounds, each on another query; and how many times as fast as plain.

    Every round runs the plain policy and up to `AT_ONCE` arms in a new random order, so a machine
    that is slow for a while is slow for all of them: compare `times_as_fast`.
    """
    found: dict[str, dict[str, Any]] = {}
    names = list(programs)
    for first in range(0, len(names), AT_ONCE):
        group = {PLAIN: plain, **{name: programs[name] for name in names[first : first + AT_ONCE]}}
        with ExitStack() as stack:
            calls = {n: _call(stack, program, asked) for n, program in group.items()}
            times = interleave(calls, rounds, warmup, seed=first, title="latency")
        for name in group:
            found[name] = {
                **beside(times[PLAIN], times[name], torch.get_num_threads()),
                "samples_ms": [round(x, 4) for x in times[name].wall_ms],
            }
    return found


def _call(stack: ExitStack, program: Program, asked: Questions) -> Callable[[], Tensor]:
    fast = stack.enter_context(accelerated(program.policy, cache=program.plan))
    rows: Iterator[int] = iter(range(10**9))

    def query() -> Tensor:
        row = next(rows) % len(asked.obs)
        generator = torch.Generator().manual_seed(row)
        return fast.act(torch.from_numpy(asked.obs[row : row + 1]), [generator])

    return query
