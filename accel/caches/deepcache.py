"""DeepCache: deep blocks, or levels of a UNet, computed on some steps, shallow ones on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..calibration.calibration import Calibration
from ..families import family_of
from ..plans.plan import CachePlan, PlanError
from ..plans.rows import blocks_plan, last_steps, shared_plan
from ..plans.sites import sites_of
from ..protocol import Accelerable
from .bounds import check_least


@dataclass
class DeepCacheConfig:
    """All of the network on some steps, a part on every step (Ma et al. 2023, arXiv 2312.00858).

    The paper's is that of a UNet: its shallow levels, and stale deep features through the skips. In
    a transformer the shallow part and the reused deep part meet in the residual stream, so blocks
    at either end that are always computed change the result. Ports that replace the stream by a
    stale output waste the early ones.

    compute_start: steps before this one are computed whole, at least 1.
    compute_end: steps from this one on are computed whole; null is the last tenth.
    compute_interval: in between, steps from one whole computation to the next; more is faster and
        less accurate.
    always: of a transformer, blocks that are computed on every step; more is slower and more
        accurate; null is block 0.
    level: of a UNet, the deepest level that is computed on every step, from 1 on; more is slower
        and more accurate; null is 1.
    """

    name: str = "deepcache"
    compute_start: int = 1
    compute_end: int | None = None
    compute_interval: int = 10
    always: list[int] | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        least = {"compute_start": 1, "compute_end": 0, "compute_interval": 1, "level": 1}
        check_least(self, least)


def resolve_deepcache(
    config: DeepCacheConfig, policy: Accelerable, calibration: Calibration | None = None
) -> CachePlan:
    """The plan.

    Raises:
        PlanError: a block of `always`, or the level, is not in the network, or of another kind of
            network.
    """
    n_steps = policy.n_inference_steps
    end = last_steps(n_steps, None) if config.compute_end is None else config.compute_end
    steps = deepcache_steps(n_steps, config.compute_start, end, config.compute_interval)
    words = f"deepcache start={config.compute_start} end={end} interval={config.compute_interval}"
    family = family_of(policy)
    if family.stack not in STACKS:
        raise PlanError(family.lacks("cache=deepcache", "layers or levels"))
    return STACKS[family.stack](config, policy, steps, words)


def _of_blocks(
    config: DeepCacheConfig, policy: Accelerable, steps: Sequence[int], words: str
) -> CachePlan:
    if config.level is not None:
        raise PlanError(f"cache.level is of UNets, a transformer has cache.always: {config.level}")
    always, depth = {0} if config.always is None else set(config.always), policy.sizes.n_layer
    if unknown := sorted(always - set(range(depth))):
        raise PlanError(f"cache.always must be blocks from 0 to {depth - 1}, got {unknown[0]}")
    cached = [block for block in range(depth) if block not in always]
    return blocks_plan(policy, steps, cached, f"{words} always={sorted(always)}")


def _of_levels(
    config: DeepCacheConfig, policy: Accelerable, steps: Sequence[int], words: str
) -> CachePlan:
    if config.always is not None:
        raise PlanError(f"cache.always is of transformers, a UNet has cache.level: {config.always}")
    level, deepest = config.level or 1, len(sites_of(policy))
    if level > deepest:
        raise PlanError(f"cache.level must be from 1 to {deepest}, got {level}")
    return shared_plan(policy, steps, f"{words} level={level}", always=level - 1)


STACKS: dict[str, Callable[[DeepCacheConfig, Accelerable, Sequence[int], str], CachePlan]] = {
    "layers": _of_blocks,
    "levels": _of_levels,
}


def deepcache_steps(n_steps: int, start: int, end: int, interval: int) -> list[int]:
    """Steps that compute everything: [0, start), start, start + interval, ... < end, [end, N)."""
    return [s for s in range(n_steps) if s < start or s >= end or (s - start) % interval == 0]
