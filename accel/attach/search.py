"""Searching windows of blocks for interval caches: what they cost, and which errs least."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from skipstep.whole_files import write_whole

from ..caches import IntervalConfig, NoCacheConfig
from ..caches.interval import interval_steps

if TYPE_CHECKING:
    from .attached import Attached


Output = Tensor | np.ndarray | Sequence[Any]
"""What a generation gives: a tensor, an array, or a list of either (videos, each of its frames)."""


@dataclass(frozen=True)
class Found:
    """A candidate of a search.

    Attributes:
        config: of the cache.
        ratio: blocks of an uncached generation over those computed.
        score: lower is better.
    """

    config: IntervalConfig
    ratio: float
    score: float


def exact_ratio(n_steps: int, n_blocks: int, config: IntervalConfig) -> float:
    """Blocks of an uncached generation over those that are computed."""
    window = n_blocks - config.first_block if config.n_blocks is None else config.n_blocks
    reused = n_steps - len(interval_steps(n_steps, config.start, config.interval))
    return n_steps * n_blocks / (n_steps * n_blocks - reused * window)


def windows(
    n_steps: int,
    n_blocks: int,
    ratio: float,
    intervals: Sequence[int] = (2, 3, 4),
    starts: Sequence[int] = (0, 5),
) -> list[IntervalConfig]:
    """The smallest windows that meet a ratio, at every place, block 0 included.

    Unlike DitCache's search, the number of blocks is rounded up and steps are counted, so that the
    ratio is met; the interval is searched as well.

    Raises:
        ValueError: no interval and start can meet the ratio; the message says what can be met.
    """
    if not ratio > 1:
        raise ValueError(f"ratio must be more than 1, got {ratio}")
    found: list[IntervalConfig] = []
    best = 1.0
    for interval in intervals:
        for start in starts:
            reused = n_steps - len(interval_steps(n_steps, start, interval))
            if not reused:
                continue
            best = max(best, n_steps / (n_steps - reused))
            least = math.ceil(n_steps * n_blocks * (1 - 1 / ratio) / reused - 1e-9)
            for first in range(n_blocks - least + 1):
                found.append(IntervalConfig("interval", start, interval, first, least))
    if not found:
        raise ValueError(
            f"ratio must be at most {best:.3g} with intervals {list(intervals)} and starts "
            f"{list(starts)} in {n_steps} steps, got {ratio}"
        )
    return found


def relative_error(output: Output, plain: Output) -> float:
    """|output - plain| / |plain|, over all arrays of a list.

    Raises:
        ValueError: they are not of the same shapes.
    """
    pairs = list(zip(arrays_of(output), arrays_of(plain), strict=False))
    shapes = [[list(a.shape) for a in arrays_of(of)] for of in (output, plain)]
    if shapes[0] != shapes[1] or not pairs:
        raise ValueError(f"run() must return equal shapes, got {shapes[0]} and {shapes[1]}")
    apart = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    whole = sum(float((b**2).sum()) for _, b in pairs)
    return math.sqrt(apart / whole) if whole else (math.inf if apart else 0.0)


def arrays_of(output: Output) -> list[np.ndarray]:
    """The arrays of an output, float64.

    Raises:
        TypeError: it is something else, say an object of a pipeline.
    """
    if isinstance(output, Tensor):
        return [output.detach().cpu().double().numpy()]
    if isinstance(output, np.ndarray):
        return [output.astype(np.float64)]
    if isinstance(output, (list, tuple)):
        return [array for each in output for array in arrays_of(each)]
    raise TypeError(
        "run() must return a tensor, an array or a list of them (or give search a score of its "
        f"own), got {type(output).__name__}"
    )


def search_windows(
    attached: Attached,
    run: Callable[[], Output],
    score: Callable[[Any, Any], float],
    ratio: float,
    intervals: Sequence[int],
    starts: Sequence[int],
    path: str | Path | None,
) -> list[Found]:
    """See `Attached.search`."""
    n_blocks = len(attached.blocks)
    candidates = windows(attached.n_steps, n_blocks, ratio, intervals, starts)
    attached.update_config(NoCacheConfig())
    with torch.no_grad():
        plain = run()
        attached.generation.check_ran()
        found = []
        for config in tqdm(candidates, desc="search", disable=None):
            attached.update_config(config)
            error = float(score(run(), plain))
            error = math.inf if math.isnan(error) else error
            found.append(Found(config, exact_ratio(attached.n_steps, n_blocks, config), error))
    found.sort(key=lambda f: f.score)
    if path is not None:
        write_whole(Path(path), json.dumps(_content(attached, ratio, found), indent=1).encode())
    return found


def _content(attached: Attached, ratio: float, found: Sequence[Found]) -> dict[str, Any]:
    return {
        "model": attached.fingerprint,
        "n_steps": attached.n_steps,
        "blocks": [block.name for block in attached.blocks],
        "ratio": ratio,
        "found": [{**asdict(f.config), "ratio": f.ratio, "score": f.score} for f in found],
    }
