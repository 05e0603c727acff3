"""Interval delta: a window of blocks computed every few steps, and what it added reused."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from skipstep.plain_files import read_json
from skipstep.whole_files import write_whole

from ..calibration.calibration import Calibration
from ..plans.able import check_branches
from ..plans.plan import CachePlan, PlanError
from ..plans.rows import blocks_plan
from ..protocol import Accelerable
from .bounds import check_least

log = logging.getLogger(__name__)


@dataclass
class IntervalConfig:
    """A window of blocks is computed on every `interval`-th step from `start` on (DitCache).

    On the other steps the window's input is passed on with what the window last added. A window of
    one block works; one that leaves the network is refused.

    start: steps before this one are computed whole; more is slower and closer to the plain policy.
    interval: steps from one computation of the window to the next; 1 computes everything.
    first_block: of the window.
    n_blocks: of the window; null is all from first_block on. More is faster and less accurate.
    """

    name: str = "interval"
    start: int = 5
    interval: int = 2
    first_block: int = 0
    n_blocks: int | None = None

    def __post_init__(self) -> None:
        check_least(self, {"start": 0, "interval": 1, "first_block": 0, "n_blocks": 1})


def resolve_interval(
    config: IntervalConfig, policy: Accelerable, calibration: Calibration | None = None
) -> CachePlan:
    """The plan.

    Raises:
        PlanError: the window is not inside the network, or that is a UNet.
    """
    check_branches(policy, "cache=interval")
    depth = policy.sizes.n_layer
    if config.first_block >= depth:
        raise PlanError(
            f"cache.first_block must be from 0 to {depth - 1} ({depth} blocks), "
            f"got {config.first_block}"
        )
    n_blocks = depth - config.first_block if config.n_blocks is None else config.n_blocks
    if config.first_block + n_blocks > depth:
        raise PlanError(
            f"cache.n_blocks must be at most {depth - config.first_block} from block "
            f"{config.first_block} on ({depth} blocks), got {n_blocks}"
        )
    window = range(config.first_block, config.first_block + n_blocks)
    steps = interval_steps(policy.n_inference_steps, config.start, config.interval)
    words = f"interval start={config.start} interval={config.interval} blocks={window[0]}"
    return blocks_plan(policy, steps, window, f"{words} to {window[-1]}")


FOUR_INTEGERS = {
    "cache_step_start": "start",
    "cache_step_interval": "interval",
    "cache_block_start": "first_block",
    "cache_num_blocks": "n_blocks",
}


def import_interval(path: str | Path) -> IntervalConfig:
    """The config in a file of the original tool: JSON with exactly its four integers.

    Raises:
        PlanError: another file; the message names it and what is wrong.
    """
    try:
        content = read_json(Path(path))
        if not isinstance(content, dict) or content.keys() != FOUR_INTEGERS.keys():
            raise ValueError(f"it must hold exactly {', '.join(FOUR_INTEGERS)}")
        if not all(type(value) is int for value in content.values()):
            raise ValueError(f"its values must be integers, got {list(content.values())}")
        return IntervalConfig(**{FOUR_INTEGERS[key]: value for key, value in content.items()})
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: {error}") from error


def export_interval(config: IntervalConfig, path: str | Path, n_blocks: int | None = None) -> None:
    """Write a file of the original tool, which `import_interval` reads.

    Args:
        config: of a cache.
        path: of the JSON file.
        n_blocks: of the model, where the config's window goes on to the end.

    Raises:
        ValueError: the window has no length.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     export_interval(IntervalConfig(first_block=3), f"{folder}/cache.json", n_blocks=28)
        ...     import_interval(f"{folder}/cache.json").n_blocks
        25
    """
    length = config.n_blocks
    if length is None and n_blocks is not None:
        length = n_blocks - config.first_block
    if length is None or length < 1:
        raise ValueError(
            f"cache.n_blocks must be a number for a file (or give n_blocks, the model's), "
            f"got {length}"
        )
    if length == 1:
        log.warning("%s: the original tool cannot run a window of one block", path)
    whole = replace(config, n_blocks=length)
    content = {key: getattr(whole, name) for key, name in FOUR_INTEGERS.items()}
    write_whole(Path(path), json.dumps(content, indent=1).encode())


def interval_steps(n_steps: int, start: int, interval: int) -> list[int]:
    """Steps on which the window is computed."""
    return [s for s in range(n_steps) if s < start or (s - start) % interval == 0]
