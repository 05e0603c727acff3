"""One colour a method, the same one in every chart, and none twice."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from itertools import count

from ..studies.comparisons import Arm

METHODS = ("#0072b2", "#c14d00", "#007a5a", "#a8467f", "#8a6100")  # Okabe and Ito, darker
PLAIN = "#6b737b"
GOLDEN = 0.61803398875  # of the circle of hues: each new hue lies in the widest gap
SHADES = ((0.40, 0.65), (0.34, 0.45), (0.46, 0.50))  # lightness and saturation, in turn


def distinct(n: int) -> list[str]:
    """So many colours, all different, each readable on white and on black.

    Example:
        >>> len(set(distinct(200)))
        200
    """
    found = dict.fromkeys(METHODS[:n])
    for i in count():
        if len(found) >= n:
            return list(found)
        lightness, saturation = SHADES[i % len(SHADES)]
        rgb = colorsys.hls_to_rgb((0.07 + GOLDEN * i) % 1, lightness, saturation)
        colour = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
        found |= {colour: None} if colour != PLAIN else {}
    raise AssertionError("unreachable")


def colours(arms: Sequence[Arm]) -> dict[int, str]:
    """{arm's number: the colour of its method}; the unaccelerated are grey."""
    plain = {arm.method for arm in arms if arm.is_baseline}
    others = [m for m in dict.fromkeys(arm.method for arm in arms) if m not in plain]
    colour = dict(zip(others, distinct(len(others)), strict=True))
    return {arm.number: colour.get(arm.method, PLAIN) for arm in arms}
