"""One colour a method, the same one in every chart, and none twice."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from itertools import count

from ..studies.comparisons import Arm

METHODS = ("#0072b2", "#c14d00", "#007a5a", "#a8467f", "#8a6100")  # Okabe and Ito, darker
PLAIN = "#6b737b"
GOLDEN = 0.61803398875  # of the circle of hues: each new hue lies in the widest gap
SHADES = ((0.17, 0.75), (0.26, 0.60), (0.21, 0.45))  # luminance and saturation, in turn


def distinct(n: int) -> list[str]:
    """So many colours, all different, each with a contrast above 3 to white and to the dark page.

    Example:
        >>> len(set(distinct(200)))
        200
    """
    found = dict.fromkeys(METHODS[:n])
    for i in count():
        if len(found) >= n:
            return list(found)
        bright, saturation = SHADES[i % len(SHADES)]
        colour = _as_bright((0.07 + GOLDEN * i) % 1, bright, saturation)
        found |= {colour: None} if colour != PLAIN else {}
    raise AssertionError("unreachable")


def luminance(colour: str) -> float:
    """Relative, as contrasts are counted by WCAG.

    Example:
        >>> luminance("#ffffff"), luminance("#000000")
        (1.0, 0.0)
    """
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _as_bright(hue: float, target: float, saturation: float) -> str:
    """The colour of this hue with this luminance, by halving."""
    low, high, colour = 0.0, 1.0, PLAIN
    for _ in range(12):
        middle = (low + high) / 2
        rgb = colorsys.hls_to_rgb(hue, middle, saturation)
        colour = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
        low, high = (middle, high) if luminance(colour) < target else (low, middle)
    return colour


def colours(arms: Sequence[Arm]) -> dict[int, str]:
    """{arm's number: the colour of its method}; the unaccelerated are grey."""
    plain = {arm.method for arm in arms if arm.is_baseline}
    others = [m for m in dict.fromkeys(arm.method for arm in arms) if m not in plain]
    colour = dict(zip(others, distinct(len(others)), strict=True))
    return {arm.number: colour.get(arm.method, PLAIN) for arm in arms}
