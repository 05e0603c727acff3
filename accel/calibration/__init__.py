"""What is measured of a policy on its own queries, once, for the methods that choose by it."""

from __future__ import annotations

from .calibration import METRICS, MIN_QUERIES, Calibration, calibrate

__all__ = [
    "METRICS",
    "MIN_QUERIES",
    "Calibration",
    "calibrate",
]
