"""The forest plot: names on the left, intervals in the middle, numbers on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from ..formatting import points
from ..metrics import Paired
from ..studies.comparisons import Arm
from ..svg import Drawing, Scale
from .placing import LINE_PX, NAME_PX

WIDTH, TOP, PAD = 420.0, 30.0, 9.0
LETTERS = 23  # of a line of a name
GAP = 14.0  # between the columns


def differences(arms: Sequence[Arm], colour: Mapping[int, str], margin: float) -> str:
    """Success minus the baseline's, with its interval, one row an arm."""
    rows = [(arm, arm.versus.success) for arm in arms if arm.versus]
    names = [wrap(arm.label, LETTERS) for arm, _ in rows]
    said = [numbers(paired) for _, paired in rows]
    left = NAME_PX * max(len(line) for lines in names for line in lines) + GAP
    right = WIDTH - NAME_PX * max(map(len, said)) - GAP
    scale = _scale([paired for _, paired in rows], margin, left, right)
    heights = [LINE_PX * len(lines) + PAD for lines in names]
    bottom = TOP + sum(heights)
    plot = Drawing(WIDTH, bottom + 40)
    plot.axis_x(scale, bottom, 18, "points of success", points)
    plot.line(scale(0), 18, scale(0), bottom, **{"class": "axis"})
    plot.line(scale(-margin), 18, scale(-margin), bottom, **{"class": "guide"})
    plot.text(0, 12, "arm", kind="soft name")
    plot.text(scale(-margin), 12, f"margin {points(-margin)}", "middle", "soft name")
    plot.text(WIDTH, 12, "points [95 %]", "end", "soft name")
    y = TOP
    for (arm, paired), lines, words, height in zip(rows, names, said, heights, strict=True):
        middle = y + (height - PAD) / 2
        for i, line in enumerate(lines):
            plot.text(0, y + 10 + LINE_PX * i, line, kind="name")
        low, high = paired.difference_interval
        style = {"stroke": colour[arm.number], "stroke_width": 2.5}
        plot.line(scale(low), middle, scale(high), middle, **style)
        plot.dot(scale(paired.difference), middle, colour[arm.number], f"{arm.label}: {words}")
        plot.text(WIDTH, middle + 4, words, "end", "name")
        y += height
    return plot.html(
        f"Differences of success rates on {arms[0].stratum}",
        "Success rate minus the unaccelerated one's, paired on seeds and noise, in points, with "
        "Tango's 95 % intervals. One that lies to the right of the dashed margin shows "
        "non-inferiority; one that holds 0 does not show equality.",
    )


def numbers(paired: Paired) -> str:
    """+9 [+6, +13]."""
    low, high = map(points, paired.difference_interval)
    return f"{points(paired.difference)} [{low}, {high}]"


def _scale(found: Sequence[Paired], margin: float, start: float, end: float) -> Scale:
    """Of the intervals, 0 and the margin, and no more."""
    ends = [edge for paired in found for edge in paired.difference_interval]
    return Scale(min(*ends, -2 * margin), max(*ends, margin), start, end)
