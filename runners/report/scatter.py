"""Arms as named points in a plane: success and FLOPs over the measured speed-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..formatting import rate, speed, times
from ..studies.comparisons import Arm, pareto
from ..studies.speeds import Speed
from ..svg import Drawing, Scale, log_scale
from .placing import Box, placed

WIDTH, LEFT, RIGHT = 420.0, 44.0, 12.0
TOP, BOTTOM, HEIGHT = 26.0, 300.0, 342.0
ROOM = Box(LEFT + 2, TOP - 4, WIDTH, BOTTOM - 2)  # of names


class Point(NamedTuple):
    """An arm in pixels; its name, and what appears on hovering."""

    x: float
    y: float
    name: str
    colour: str
    said: str


def sped(arms: Sequence[Arm]) -> list[tuple[Arm, Speed]]:
    """Arms whose speed-up was measured, with it."""
    return [(arm, arm.speed) for arm in arms if arm.speed]


def draw_points(plot: Drawing, points: Sequence[Point], avoid: Sequence[Box] = ()) -> int:
    """Dots and their names, the first ones first, and no name over what is to be avoided.

    Returns:
        How many names found no room.
    """
    names = placed([(p.x, p.y, p.name) for p in points], ROOM, avoid)
    for point, name in zip(points, names, strict=True):
        if name and name.moved:
            x = min(max(point.x, name.box.left), name.box.right)
            y = name.box.bottom if point.y > name.box.bottom else name.box.top
            y = point.y if name.box.top <= point.y <= name.box.bottom else y
            plot.line(point.x, point.y, x, y, stroke=point.colour, stroke_width=0.7)
    for point in points:
        plot.dot(point.x, point.y, point.colour, point.said)
    for point, name in zip(points, names, strict=True):
        if name and point.name:
            plot.text(name.x, name.y, point.name, kind="name")
    return names.count(None)


def unnamed(n: int) -> str:
    """What a caption says of names without room."""
    return f" Without room for a name: {n}; the tables have them." if n else ""


def zoomed(values: Sequence[float], start: float, end: float) -> Scale:
    """An axis of rates that holds these and little more."""
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), 0.01)
    return Scale(max(low - room, 0.0), min(high + room, 1.0), start, end)


def success_by_speed(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    """Where an arm lies between fast and successful, and the Pareto front."""
    timed, front = sped(arms), pareto(arms)
    x = log_scale([1.0, *(v for _, s in timed for v in s.interval)], LEFT, WIDTH - RIGHT)
    y = zoomed([edge for arm, _ in timed for edge in arm.interval], BOTTOM, TOP)
    plot = Drawing(WIDTH, HEIGHT)
    digits = 2 if y.high - y.low < 0.25 else 1
    plot.axis_y(y, LEFT, WIDTH - RIGHT, "success rate", lambda v: f"{v:.{digits}f}")
    plot.axis_x(x, BOTTOM, TOP, "times as fast, measured within one run", times)
    where = {arm.number: (x(s.times), y(arm.rate)) for arm, s in timed}
    corners = [where[arm.number] for arm in front]
    steps = [p for a, b in pairwise(corners) for p in (a, (b[0], a[1]))] + corners[-1:]
    plot.path(steps, **{"class": "guide"})
    for arm, found in timed:
        style = {"stroke": colour[arm.number], "stroke_width": 1.4, "opacity": 0.6}
        px, py = where[arm.number]
        plot.line(px, y(arm.interval[0]), px, y(arm.interval[1]), **style)
        plot.line(x(found.interval[0]), py, x(found.interval[1]), py, **style)
    best = {arm.number for arm in front}
    order = sorted(timed, key=lambda entry: (entry[0].number not in best, entry[0].versus is None))
    left_out = draw_points(
        plot,
        [
            Point(
                *where[arm.number],
                arm.label,
                colour[arm.number],
                f"{arm.label}: {rate(arm.rate)} at {speed(found.times)}",
            )
            for arm, found in order
        ],
        [_along(a, b) for a, b in pairwise(steps)],
    )
    measured = dict.fromkeys(found.conditions for _, found in timed)
    return plot.html(
        f"Success rate by measured speed-up on {arms[0].stratum}",
        "Times as fast as the checkpoint's unaccelerated policy in stock modules, timed in turn in "
        f"the same run ({'; or '.join(measured)}); 95 % intervals (Wilson; bootstrap of the "
        "ratio). The axis of success is zoomed to the data. Dashed: the Pareto front, no arm is "
        f"better in both than those on it.{unnamed(left_out)}",
    )


def _along(a: tuple[float, float], b: tuple[float, float]) -> Box:
    """What an upright or level line covers."""
    return Box(min(a[0], b[0]) - 1, min(a[1], b[1]) - 1, max(a[0], b[0]) + 1, max(a[1], b[1]) + 1)


def bound_by_speed(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    """What the FLOPs would allow, and what the clock said."""
    timed = [(arm, arm.bound, found) for arm, found in sped(arms) if arm.bound]
    values = [1.0, *(bound for _, bound, _ in timed)]
    values += [edge for _, _, found in timed for edge in found.interval]
    x, y = log_scale(values, LEFT, WIDTH - RIGHT), log_scale(values, BOTTOM, TOP)
    plot = Drawing(WIDTH, HEIGHT)
    plot.axis_y(y, LEFT, WIDTH - RIGHT, "measured speed-up", times)
    plot.axis_x(x, BOTTOM, TOP, "speed-up that the FLOPs allow", times)
    plot.line(x(x.low), y(x.low), x(x.high), y(x.high), **{"class": "guide"})
    for arm, bound, found in timed:
        px = x(bound)
        style = {"stroke": colour[arm.number], "stroke_width": 1.4}
        plot.line(px, y(found.interval[0]), px, y(found.interval[1]), **style)
    several = len({arm.stratum for arm, *_ in timed}) > 1
    left_out = draw_points(
        plot,
        [
            Point(
                x(bound),
                y(found.times),
                f"{arm.label}, {arm.stratum}" if several else arm.label,
                colour[arm.number],
                f"{arm.label}, {arm.stratum}: {speed(found.times)} of {speed(bound)}",
            )
            for arm, bound, found in timed
        ],
    )
    return plot.html(
        "Measured speed-up against the bound by FLOPs",
        "Both over the checkpoint's unaccelerated policy in stock modules, timed in turn in the "
        "same run. On the dashed line a saved FLOP is saved time; above it the engine itself beats "
        f"the plain network.{unnamed(left_out)}",
    )
