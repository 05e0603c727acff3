"""No cache: every cell computed."""

from __future__ import annotations

from dataclasses import dataclass

from ..calibration.calibration import Calibration
from ..plans.plan import CachePlan
from ..plans.rows import shared_plan
from ..protocol import Accelerable


@dataclass
class NoCacheConfig:
    """The unaccelerated policy; its plan is bit-equal to it."""

    name: str = "none"


def resolve_none(
    config: NoCacheConfig, policy: Accelerable, calibration: Calibration | None = None
) -> CachePlan:
    return shared_plan(policy, range(policy.n_inference_steps), "none")
