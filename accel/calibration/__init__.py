"""What is measured of a policy on its own queries, once, for the methods that choose by it."""

from __future__ import annotations

from .calibration import MIN_QUERIES, Calibration
from .measure import calibrate, complete
from .statistics import METRICS, STANDARD, STATISTICS, Statistic

__all__ = [
    "METRICS",
    "MIN_QUERIES",
    "STANDARD",
    "STATISTICS",
    "Calibration",
    "Statistic",
    "calibrate",
    "complete",
]
