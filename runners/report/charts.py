"""The charts of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ..formatting import points, rate, short, speed, times
from ..html import legend
from ..studies.comparisons import Arm, pareto
from ..studies.cost import Latency
from ..svg import Drawing, Scale, log_scale

WIDTH, LEFT, RIGHT = 440.0, 44.0, 12.0
METHODS = (
    "#0072b2",
    "#c14d00",
    "#007a5a",
    "#a8467f",
    "#8a6100",
    "#2a7fb0",
)  # Okabe and Ito, darker
PLAIN = "#6b737b"


def colours(arms: Sequence[Arm]) -> dict[int, str]:
    """{arm's number: the colour of its method, everywhere the same}; the unaccelerated are grey."""
    plain = {arm.method for arm in arms if arm.is_baseline}
    others = [m for m in dict.fromkeys(arm.method for arm in arms) if m not in plain]
    colour = {method: METHODS[i % len(METHODS)] for i, method in enumerate(others)}
    return {arm.number: colour.get(arm.method, PLAIN) for arm in arms}


def key(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    return legend([(colour[arm.number], named(arm)) for arm in arms])


def named(arm: Arm) -> str:
    return f"{arm.number} {arm.label}"


def differences(arms: Sequence[Arm], colour: Mapping[int, str], margin: float) -> str:
    """Success minus the baseline's, with its interval, one row an arm."""
    rows = [(arm, arm.versus.success) for arm in arms if arm.versus]
    lows = [paired.difference_interval[0] for _, paired in rows]
    highs = [paired.difference_interval[1] for _, paired in rows]
    scale = Scale(min(*lows, -2 * margin), max(*highs, 2 * margin), 12, WIDTH - RIGHT)
    bottom = 26.0 + 36 * len(rows)
    plot = Drawing(WIDTH, bottom + 40)
    plot.axis_x(scale, bottom, 18, "success rate minus the unaccelerated one's", points)
    plot.line(scale(0), 18, scale(0), bottom, **{"class": "axis"})
    plot.line(scale(-margin), 18, scale(-margin), bottom, **{"class": "guide"})
    plot.text(scale(-margin) - 3, 13, f"margin {points(-margin)}", "end", "soft")
    for i, (arm, paired) in enumerate(rows):
        y = 40.0 + 36 * i
        low, high = paired.difference_interval
        left = scale((low + high) / 2) < WIDTH / 2
        x, anchor = (12.0, "start") if left else (WIDTH - RIGHT, "end")
        plot.text(x, y - 7, arm.label, anchor)
        plot.line(scale(low), y + 6, scale(high), y + 6, stroke=colour[arm.number], stroke_width=3)
        said = f"{named(arm)}: {points(paired.difference)} [{points(low)}, {points(high)}]"
        plot.badge(scale(paired.difference), y + 6, arm.number, colour[arm.number], said)
    return plot.html(
        f"Differences of success rates on {arms[0].stratum}",
        "Paired on seeds and noise, in points, with Tango's 95 % intervals. One that lies to the "
        "right of the dashed margin shows non-inferiority; one that holds 0 does not show "
        "equality.",
    )


def sped(arms: Sequence[Arm]) -> list[tuple[Arm, float, tuple[float, float]]]:
    """Arms whose speed-up is known, with it and its interval."""
    found = []
    for arm in arms:
        if arm.latency and arm.latency.ratio:
            ratio = arm.latency.ratio
            found.append((arm, ratio, arm.latency.ratio_interval or (ratio, ratio)))
    return found


def success_by_speed(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    """Where an arm lies between fast and successful, and the Pareto front.

    Milliseconds of different runs are of different hours of a machine; ratios within a run are not.
    """
    timed = sped(arms)
    ends = [1.0, *(edge for _, _, interval in timed for edge in interval)]
    x, y = log_scale(ends, LEFT, WIDTH - RIGHT), Scale(0, 1, 270, 26)
    plot = Drawing(WIDTH, 312)
    plot.axis_y(y, LEFT, WIDTH - RIGHT, "success rate", lambda v: f"{v:.1f}")
    plot.axis_x(x, 270, 26, "times as fast as the unaccelerated policy", times)
    front = [(x(a.times_as_fast), y(a.rate)) for a in pareto(arms) if a.times_as_fast]
    corners = [(b[0], a[1]) for a, b in pairwise(front)]
    steps = [p for pair in zip(front, [*corners, front[-1]], strict=True) for p in pair]
    plot.path(steps, **{"class": "guide"})
    for arm, ratio, interval in timed:
        style = {"stroke": colour[arm.number], "stroke_width": 1.6}
        px, py = x(ratio), y(arm.rate)
        plot.line(px, y(arm.interval[0]), px, y(arm.interval[1]), **style)
        plot.line(x(interval[0]), py, x(interval[1]), py, **style)
    for arm, ratio, _ in timed:
        said = f"{named(arm)}: {rate(arm.rate)} at {speed(ratio)}"
        plot.badge(x(ratio), y(arm.rate), arm.number, colour[arm.number], said)
    shown = [arm for arm, _, _ in timed]
    measured = dict.fromkeys(arm.latency.conditions for arm in shown if arm.latency)
    return plot.html(
        f"Success rate by measured speed-up on {arms[0].stratum}",
        "As the checkpoint's unaccelerated policy in stock modules, timed in turn in the same run "
        f"({'; or '.join(measured)}); 95 % intervals (Wilson; bootstrap of the ratio). "
        "Dashed: the Pareto front, no arm is better in both than those on it.",
        key(shown, colour),
    )


def success_by_delay(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    """What the steps cost that pass before an answer acts, one line a method."""
    lines: dict[str, list[Arm]] = {}
    for arm in sorted(arms, key=lambda arm: arm.delay):
        lines.setdefault(arm.method, []).append(arm)
    x, y = (
        Scale(0, max(arm.delay for arm in arms), LEFT + 12, WIDTH - RIGHT - 12),
        Scale(0, 1, 270, 26),
    )
    plot = Drawing(WIDTH, 312)
    plot.axis_y(y, LEFT, WIDTH - RIGHT, "success rate", lambda v: f"{v:.1f}")
    plot.axis_x(x, 270, 26, "control delay (steps)", short)
    for found in lines.values():
        style = {"stroke": colour[found[0].number], "stroke_width": 1.6}
        plot.path([(x(arm.delay), y(arm.rate)) for arm in found], fill="none", **style)
        for arm in found:
            low, high = arm.interval
            plot.line(x(arm.delay), y(low), x(arm.delay), y(high), **style)
            said = f"{named(arm)}: {arm.rate:.2f} [{low:.2f}, {high:.2f}]"
            plot.badge(x(arm.delay), y(arm.rate), arm.number, colour[arm.number], said)
    return plot.html(
        f"Success rate by control delay on {arms[0].stratum}",
        "Steps of the simulator between a query and its first action, with 95 % intervals "
        "(Wilson). A step is one period of the robot's control rate.",
        legend([(colour[found[0].number], method) for method, found in lines.items()]),
    )


def bound_by_speed(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    """What the FLOPs would allow, and what the clock said."""
    found = sped(arms)
    timed = [(arm, arm.bound, ratio, ends) for arm, ratio, ends in found if arm.bound]
    values = [1.0, *(bound for _, bound, _, _ in timed)]
    values += [edge for _, _, _, interval in timed for edge in interval]
    x, y = log_scale(values, LEFT, WIDTH - RIGHT), log_scale(values, 270, 26)
    plot = Drawing(WIDTH, 312)
    plot.axis_y(y, LEFT, WIDTH - RIGHT, "measured speed-up", times)
    plot.axis_x(x, 270, 26, "speed-up that the FLOPs allow", times)
    plot.line(x(x.low), y(x.low), x(x.high), y(x.high), **{"class": "guide"})
    for arm, bound, _, (low, high) in timed:
        px = x(bound)
        plot.line(px, y(low), px, y(high), stroke=colour[arm.number], stroke_width=1.6)
    for arm, bound, ratio, _ in timed:
        said = f"{named(arm)}, {arm.stratum}: {speed(ratio)} of {speed(bound)}"
        plot.badge(x(bound), y(ratio), arm.number, colour[arm.number], said)
    return plot.html(
        "Measured speed-up against the bound by FLOPs",
        "Both over the checkpoint's unaccelerated policy in stock modules, timed in turn in the "
        "same run. On the dashed line a saved FLOP is saved time; above it the engine itself beats "
        "the plain network.",
        legend([(colour[arm.number], f"{named(arm)}, {arm.stratum}") for arm, *_ in timed]),
    )


def latencies(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    """Every query's time: the arm's, and the plain policy's of the same run in grey."""
    timed = [(arm, arm.latency) for arm in arms if arm.latency]
    everything = [v for _, latency in timed for s in _shown(latency).values() for v in s]
    x = log_scale(everything, 12, WIDTH - RIGHT)
    bottom = 10.0 + 44 * len(timed)
    plot = Drawing(WIDTH, bottom + 40)
    plot.axis_x(x, bottom, 8, "latency of a query (ms)", short)
    for i, (arm, latency) in enumerate(timed):
        y = 22.0 + 44 * i
        left = x(latency.p50_ms) < WIDTH / 2
        where, anchor = (12.0, "start") if left else (WIDTH - RIGHT, "end")
        plot.text(where, y, named(arm), anchor)
        for place, (who, samples) in zip((11, 21), _shown(latency).items(), strict=False):
            _spread(plot, x, y + place, samples, PLAIN if who == "plain" else colour[arm.number])
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
