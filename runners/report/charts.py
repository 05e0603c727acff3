"""The charts of a report besides the forest plot and the planes of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np

from ..formatting import rate, short
from ..html import legend
from ..studies.comparisons import Arm
from ..studies.cost import Latency
from ..svg import Drawing, Scale, log_scale
from .colours import PLAIN
from .forest import LETTERS
from .placing import LINE_PX, NAME_PX
from .scatter import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, draw_points, unnamed, zoomed


def named(arm: Arm) -> str:
    return f"{arm.number} {arm.label}"


def success_by_delay(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    """What the steps cost that pass before an answer acts, one line a method."""
    lines: dict[str, list[Arm]] = {}
    for arm in sorted(arms, key=lambda arm: arm.delay):
        lines.setdefault(arm.method, []).append(arm)
    most = max(arm.delay for arm in arms)
    x = Scale(0, most, LEFT + 12, WIDTH - RIGHT - 12)
    y = zoomed([edge for arm in arms for edge in arm.interval], BOTTOM, TOP)
    plot = Drawing(WIDTH, HEIGHT)
    plot.axis_y(y, LEFT, WIDTH - RIGHT, "success rate", lambda v: f"{v:.2g}")
    plot.axis_x(x, BOTTOM, TOP, "control delay (steps)", short)
    points = []
    for method, found in lines.items():
        style = {"stroke": colour[found[0].number], "stroke_width": 1.6}
        plot.path([(x(arm.delay), y(arm.rate)) for arm in found], fill="none", **style)
        for arm in found:
            low, high = arm.interval
            plot.line(x(arm.delay), y(low), x(arm.delay), y(high), **style)
            said = f"{arm.label}: {rate(arm.rate)} [{rate(low)}, {rate(high)}]"
            name = method if arm is found[-1] else ""
            points.append(Point(x(arm.delay), y(arm.rate), name, colour[arm.number], said))
    left_out = draw_points(plot, sorted(points, key=lambda point: not point.name))
    return plot.html(
        f"Success rate by control delay on {arms[0].stratum}",
        "Steps of the simulator between a query and its first action, with 95 % intervals "
        "(Wilson). A step is one period of the robot's control rate. The axis of success is zoomed "
        f"to the data.{unnamed(left_out)}",
        legend([(colour[found[0].number], method) for method, found in lines.items()])
        if left_out
        else "",
    )


def latencies(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    """Every query's time: the arm's, and the plain policy's of the same run in grey."""
    timed = [(arm, arm.latency) for arm in arms if arm.latency]
    everything = [v for _, latency in timed for s in _shown(latency).values() for v in s]
    names = [wrap(named(arm), LETTERS) for arm, _ in timed]
    left = NAME_PX * max(len(line) for lines in names for line in lines) + 14
    x = log_scale(everything, left, WIDTH - RIGHT)
    heights = [max(LINE_PX * len(lines), 24.0) + 10 for lines in names]
    bottom = 10.0 + sum(heights)
    plot, y = Drawing(WIDTH, bottom + 40), 10.0
    plot.axis_x(x, bottom, 8, "latency of a query (ms)", short)
    for (arm, latency), lines, height in zip(timed, names, heights, strict=True):
        for i, line in enumerate(lines):
            plot.text(0, y + 12 + LINE_PX * i, line, kind="name")
        for place, (who, samples) in zip((8, 18), _shown(latency).items(), strict=False):
            _spread(plot, x, y + place, samples, PLAIN if who == "plain" else colour[arm.number])
        y += height
    return plot.html(
        "Distributions of latencies",
        "Lines from the 1st to the 99th percentile, boxes over the middle half, a gap at the "
        "median. Grey: the plain policy, timed in turn in the same run; where it moves from run to "
        "run, so did the machine.",
    )


def _shown(latency: Latency) -> dict[str, list[float]]:
    """The arm's times, and the plain policy's where it is the one that speed-ups are over."""
    names = ("accelerated", "plain") if latency.ratio else ("accelerated",)
    return {name: latency.samples_ms[name] for name in names}


def _spread(plot: Drawing, x: Scale, y: float, samples: Sequence[float], colour: str) -> None:
    p1, p25, p50, p75, p99 = (x(float(v)) for v in np.percentile(samples, [1, 25, 50, 75, 99]))
    plot.line(p1, y, p99, y, stroke=colour, stroke_width=1.5)
    plot.rect(p25, y - 3.5, max(p75 - p25, 2.0), 7, fill=colour)
    plot.line(p50, y - 5, p50, y + 5, **{"class": "halo"})
