"""BAC: update steps per block from a calibration, and reuse in between."""

from __future__ import annotations

from dataclasses import dataclass

from ..calibration.calibration import Calibration
from ..plans.plan import CachePlan
from ..protocol import Accelerable
from .calibrated import ScheduleConfig, schedule


@dataclass
class BacConfig(ScheduleConfig):
    """Block-wise Adaptive Caching (arXiv 2506.13456); the settings are `ScheduleConfig`'s.

    Differences: the default layout is not the paper's, which is layout=block; in it gains are
    cos - 1 (see `gains_of`), mse, l1 and l2 are minimised, and the last step is one of the S.
    """

    name: str = "bac"


def resolve_bac(config: BacConfig, policy: Accelerable, calibration: Calibration) -> CachePlan:
    """The plan."""
    mask, _ = schedule(config, policy, calibration)
    return CachePlan(calibration.sites, mask, calibration.policy, config.words)
