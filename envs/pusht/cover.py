"""How much of the goal a block covers.

gym-pusht has the area from GEOS, whose last bit depends on where its memory lies, and so on what
the process did before. Here it is a sum in one order: a seed's rewards are the same bits anywhere,
and differ from gym-pusht's by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, sin
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]

BOXES = ((-60.0, 0.0, 60.0, 30.0), (-15.0, 30.0, 15.0, 120.0))
"""The bar and the stem of a T in its own frame, px: left, upper, right and lower edge."""
AREA = sum((right - left) * (lower - upper) for left, upper, right, lower in BOXES)


def covered_share(block: Sequence[float], goal: Sequence[float]) -> float:
    """The share of a T at `goal` that one at `block` covers, both (x px, y px, angle rad).

    Example:
        >>> covered_share((256, 256, 0), (256, 256, 0)), covered_share((256, 316, 0), (256, 256, 0))
        (1.0, 0.2857142857142857)
    """
    x, y = _turned(block[0] - goal[0], block[1] - goal[1], -goal[2])
    turn = block[2] - goal[2]
    covered = 0.0
    for left, upper, right, lower in BOXES:
        corners = [(left, upper), (right, upper), (right, lower), (left, lower)]
        moved = [(x + a, y + b) for a, b in (_turned(*corner, turn) for corner in corners)]
        for box in BOXES:
            covered += _area(_inside(moved, box))
    return covered / AREA


def _turned(x: float, y: float, angle: float) -> Point:
    return x * cos(angle) - y * sin(angle), x * sin(angle) + y * cos(angle)


def _inside(polygon: list[Point], box: tuple[float, float, float, float]) -> list[Point]:
    """The part of a convex polygon in a box: one edge of the box after the other cuts it."""
    for axis, bound, sign in ((0, box[0], 1), (1, box[1], 1), (0, box[2], -1), (1, box[3], -1)):
        depths = [sign * (point[axis] - bound) for point in polygon]
        kept = []
        for i, here in enumerate(polygon):
            if depths[i - 1] * depths[i] < 0:
                (x, y), share = polygon[i - 1], depths[i - 1] / (depths[i - 1] - depths[i])
                kept.append((x + share * (here[0] - x), y + share * (here[1] - y)))
            if depths[i] >= 0:
                kept.append(here)
        polygon = kept
    return polygon


def _area(polygon: list[Point]) -> float:
    """Of corners in order; 0 of none."""
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) / 2
