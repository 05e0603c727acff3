"""TeaCache and FBCache: a step is computed when a cheap probe has changed enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..calibration.calibration import Calibration
from ..plans.decisions import MAX_DEGREE, Threshold
from ..plans.plan import CachePlan, PlanError
from ..plans.rows import blocks_plan, last_steps, shared_plan
from ..protocol import Accelerable
from .bounds import check_least


@dataclass
class ThresholdConfig:
    """Settings of both.

    threshold: change at which a step is computed; more is faster and less accurate.
    warm_up: first steps, all computed.
    cool_down: last steps, all computed; null is the last tenth.
    dynamic: each query decides by its own probe; false freezes what the calibration's mean would
        decide, the same steps for every query.
    """

    name: str = ""
    threshold: float = 1.0
    warm_up: int = 1
    cool_down: int | None = None
    dynamic: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < math.inf:
            raise ValueError(f"cache.threshold must be at least 0 and finite, got {self.threshold}")
        check_least(self, {"warm_up": 1, "cool_down": 0})

    def always(self, n_steps: int) -> tuple[int, ...]:
        """Steps that are computed in any case."""
        last = last_steps(n_steps, self.cool_down)
        return tuple(s for s in range(n_steps) if s < self.warm_up or s >= last)


@dataclass
class TeaCacheConfig(ThresholdConfig):
    """Accumulated change of the network's input (TeaCache, arXiv 2411.19108).

    A transformer has no modulated input: the probe is its first norm's output together with the
    time memory token; of a DiT it is the paper's, the first block's modulated input. The polynomial
    that turns its change into that of what the blocks add is fitted on the calibration.
    Differences: a negative value of the polynomial counts as 0, a change larger than any calibrated
    one computes, and each row of a batch decides for itself.

    threshold: accumulated relative change.
    degree: of the polynomial, 1 to 4.
    """

    name: str = "teacache"
    threshold: float = 1.5
    degree: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.degree <= MAX_DEGREE:
            raise ValueError(f"cache.degree must be from 1 to {MAX_DEGREE}, got {self.degree}")


@dataclass
class FirstBlockConfig(ThresholdConfig):
    """Change of what the first blocks add, since all were computed (FBCache of ParaAttention).

    Differences: each row of a batch decides for itself; cool_down.

    threshold: relative change.
    blocks: that are computed on every step, the probe among them; more is slower and more accurate.
    """

    name: str = "first_block"
    threshold: float = 0.8
    blocks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks < 1:
            raise ValueError(f"cache.blocks must be at least 1, got {self.blocks}")


def resolve_teacache(
    config: TeaCacheConfig, policy: Accelerable, calibration: Calibration
) -> CachePlan:
    """The plan."""
    change, response = calibration.probe[:, 1:], calibration.response[:, 1:]
    if not (np.isfinite(change).all() and np.isfinite(response).all()):
        raise PlanError("calibration.probe or calibration.response is not finite")
    rule = Threshold(
        "norm",
        0,
        config.threshold,
        fitted_polynomial(change.ravel(), response.ravel(), config.degree),
        float(change.max(initial=0.0)),
        True,
        config.always(calibration.n_steps),
    )
    mean = rule.rescaled(torch.from_numpy(change)).numpy().mean(axis=0)
    steps, total = [0], 0.0
    for s in range(1, calibration.n_steps):
        total += mean[s - 1]
        if s in rule.always or total >= config.threshold:
            steps.append(s)
            total = 0.0
    return _plan(config, policy, steps, rule, f"degree={config.degree}")


def resolve_first_block(
    config: FirstBlockConfig, policy: Accelerable, calibration: Calibration
) -> CachePlan:
    """The plan; PlanError with nothing left to skip."""
    rule = first_block_rule(config, policy)
    change = calibration.depth_change[config.blocks - 1]
    steps = [0]
    for s in range(1, calibration.n_steps):
        if s in rule.always or not change[steps[-1], s] < config.threshold:
            steps.append(s)
    return _plan(config, policy, steps, rule, f"blocks={config.blocks}")


def first_block_rule(config: FirstBlockConfig, policy: Accelerable) -> Threshold:
    """When blocks after the first ones are computed; PlanError where there are none."""
    depth = policy.sizes.n_layer
    if config.blocks >= depth:
        raise PlanError(
            f"cache.blocks must be from 1 to {depth - 1} ({depth} blocks), got {config.blocks}"
        )
    first = config.blocks * len(policy.sizes.branches)
    always = config.always(policy.n_inference_steps)
    return Threshold("residual", first, config.threshold, (1.0, 0.0), math.inf, False, always)


def first_block_of_blocks(
    config: FirstBlockConfig, stack: Accelerable, calibration: Calibration | None = None
) -> CachePlan:
    """By the threshold alone, so nothing is calibrated; the plan expects that all is computed.

    Raises:
        PlanError: the calibration is to decide.
    """
    if not config.dynamic:
        raise PlanError(
            "cache.dynamic must be true for a foreign model, whose blocks are not calibrated: run "
            "it, and freeze what it decided (accel.freeze)"
        )
    words = f"first_block threshold={config.threshold} blocks={config.blocks}"
    plan = shared_plan(stack, range(stack.n_inference_steps), words)
    return replace(plan, decide=first_block_rule(config, stack))


def _plan(
    config: ThresholdConfig, policy: Accelerable, steps: list[int], rule: Threshold, words: str
) -> CachePlan:
    blocks = range(rule.first // len(policy.sizes.branches), policy.sizes.n_layer)
    end = last_steps(policy.n_inference_steps, config.cool_down)
    method = (
        f"{config.name} threshold={config.threshold} warm_up={config.warm_up} end={end} {words} "
        f"dynamic={config.dynamic}"
    )
    plan = blocks_plan(policy, steps, blocks, method)
    return replace(plan, decide=rule) if config.dynamic else plan


def fitted_polynomial(change: np.ndarray, response: np.ndarray, degree: int) -> tuple[float, ...]:
    """Least squares, the highest power first; of a lower degree for fewer distinct changes."""
    degree = min(degree, len(np.unique(change)) - 1)
    if degree < 1:
        return (float(response.mean()) if len(response) else 0.0,)
    fit = np.polynomial.Polynomial.fit(change, response, degree).convert()
    return tuple(float(c) for c in fit.coef[::-1])
