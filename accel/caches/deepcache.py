"""DeepCache: deep blocks computed on some steps, shallow ones on all."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..calibration import Calibration
from ..plan import CachePlan, PlanError
from ..protocol import Accelerable
from ..row_plans import blocks_plan, last_steps


@dataclass
class DeepCacheConfig:
    """All blocks on some steps, a few on every step (Ma et al. 2023, arXiv 2312.00858).

    The shallow part and the reused deep part meet in the residual stream, as they do in a U-Net's
    skip connections, so blocks at either end that are always computed change the result. Ports to
    transformers that replace the stream by a stale output waste the early ones.

    compute_start: steps before this one are computed whole, at least 1.
    compute_end: steps from this one on are computed whole; null is the last tenth.
    compute_interval: in between, steps from one whole computation to the next; more is faster and
        less accurate.
    always: blocks that are computed on every step; more is slower and more accurate.
    """

    name: str = "deepcache"
    compute_start: int = 1
    compute_end: int | None = None
    compute_interval: int = 10
    always: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        at_least = {"compute_start": 1, "compute_end": 0, "compute_interval": 1}
        for setting, least in at_least.items():
            value = getattr(self, setting)
            if value is not None and value < least:
                raise ValueError(f"cache.{setting} must be at least {least}, got {value}")


def resolve_deepcache(
    config: DeepCacheConfig, policy: Accelerable, calibration: Calibration | None = None
) -> CachePlan:
    """The plan.

    Raises:
        PlanError: a block of `always` is not in the network.
    """
    depth, n_steps = policy.sizes.n_layer, policy.n_inference_steps
    if unknown := sorted(set(config.always) - set(range(depth))):
        raise PlanError(f"cache.always must be blocks from 0 to {depth - 1}, got {unknown[0]}")
    end = last_steps(n_steps, None) if config.compute_end is None else config.compute_end
    steps = deepcache_steps(n_steps, config.compute_start, end, config.compute_interval)
    cached = [block for block in range(depth) if block not in config.always]
    words = f"deepcache start={config.compute_start} end={end} interval={config.compute_interval}"
    return blocks_plan(policy, steps, cached, f"{words} always={sorted(set(config.always))}")


def deepcache_steps(n_steps: int, start: int, end: int, interval: int) -> list[int]:
    """Steps that compute everything: [0, start), start, start + interval, ... < end, [end, N)."""
    return [
        s
        for s in range(n_steps)
        if s < start or s >= end or (start <= s and (s - start) % interval == 0)
    ]
