"""The drawings of plans, for the page and for the picture alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from accel import CachePlan

from ..svg import CHARACTER_PX, LEGEND_PX, Drawing, Scale, legend_lines, round_step
from .colours import (
    ARM_COLOURS,
    CELL_COLOURS,
    DIFFERENCE_COLOURS,
    KIND_COLOURS,
    SEPARATOR,
)
from .plan_view import (
    CELLS,
    DIFFERENCES,
    KINDS,
    STACKED,
    Arm,
    cells,
    differences,
    layer_bounds,
    ranges,
    site_label,
)

STEP_AXIS = "denoising step (0 = noisiest)"
WIDTH, RIGHT = 960.0, 12.0
PHONE = 430.0  # as wide as a drawing is on a narrow screen
ROW_PX = 14.0  # of a site
TOP, BOTTOM = 24.0, 40.0  # for a legend above, and for the axis below


def plan_grid(plan: CachePlan, width: float = WIDTH) -> Drawing:
    """What each step computes of each site, or adds instead."""
    return _grid(plan, cells(plan), CELLS, CELL_COLOURS, width)


def difference_grid(a: CachePlan, b: CachePlan, width: float = WIDTH) -> Drawing:
    """Where two plans over one grid differ."""
    return _grid(a, differences(a, b), DIFFERENCES, DIFFERENCE_COLOURS, width)


def update_bars(arms: Sequence[Arm], width: float = WIDTH) -> Drawing:
    """In how many steps each site is computed, one bar an arm."""
    plan = arms[0].plan
    names = [site_label(site.name) for site in plan.sites]
    said = [[f"{arm.label}, {n} update steps" for n in arm.updates] for arm in arms]
    colours = list(zip(ARM_COLOURS, (arm.label for arm in arms), strict=False))
    return bars(
        names,
        [arm.updates for arm in arms],
        "update steps in a query",
        said,
        colours[: len(arms)] if arms[1:] else [],
        width,
    )


def bars(
    names: Sequence[str],
    values: Sequence[np.ndarray],
    title: str,
    said: Sequence[Sequence[str]],
    legend: Sequence[tuple[str, str]] = (),
    across: float = WIDTH,
) -> Drawing:
    """Horizontal bars.

    Args:
        names: of the rows, from above.
        values: one array over the rows for each arm.
        title: of the axis.
        said: on hovering, likewise.
        legend: (colour, name) of the arms, where there is more than one.
        across: the drawing's width.
    """
    left, down = margin(names), ROW_PX * len(values)
    top = _top(across - left, legend)
    bottom = top + down * len(names)
    most = max(float(max(row.max() for row in values)), 1e-9)
    plot, scale = Drawing(across, bottom + BOTTOM), Scale(0, most, left, across - RIGHT)
    plot.legend(left, 14, legend)
    plot.axis_x(scale, bottom, top, title, lambda v: f"{v:.4g}")
    for row, name in enumerate(names):
        y = top + down * row
        plot.text(left - 6, y + down / 2 + 4, name, "end", "soft")
        for arm, (found, words) in enumerate(zip(values, said, strict=True)):
            width = scale(float(found[row])) - left
            place = (left, y + ROW_PX * arm + 1, width, ROW_PX - 2)
            plot.rect(*place, f"{name}: {words[row]}", fill=ARM_COLOURS[arm])
    return plot


def flops_by_step(arms: Sequence[Arm], width: float = WIDTH) -> Drawing:
    """FLOPs of the first arm's steps by part of the network; of the second one's in all."""
    first, left, bottom = arms[0], 56.0, 300.0
    n_steps, kinds = first.plan.n_steps, [k for k in STACKED if k in first.flops]
    in_all = [np.sum(list(arm.flops.values()), axis=0) / 1e9 for arm in arms]
    entries = [(KIND_COLOURS[kind], KINDS[kind]) for kind in kinds]
    entries += [(ARM_COLOURS[1], f"{arm.label}, in all") for arm in arms[1:]]
    plot, top = Drawing(width, bottom + BOTTOM), _top(width - left, entries)
    y = Scale(0, float(max(row.max() for row in in_all)), bottom, top + 30)
    plot.axis_y(y, left, width - RIGHT, "FLOPs of the step (GFLOP)", lambda v: f"{v:.4g}")
    across = (width - RIGHT - left) / n_steps
    floor = np.zeros(n_steps)
    for kind in kinds:
        values = first.flops[kind] / 1e9
        for step in np.flatnonzero(values):
            top, height = y(floor[step] + values[step]), y(0) - y(float(values[step]))
            words = f"step {step}: {values[step]:.3g} GFLOP, {KINDS[kind]}"
            place = (left + across * float(step), top, across, height)
            plot.rect(*place, words, fill=KIND_COLOURS[kind])
        floor += values
    for values in in_all[1:]:
        edges = [(left + across * i, left + across * (i + 1)) for i in range(n_steps)]
        line = [(x, y(float(v))) for ends, v in zip(edges, values, strict=True) for x in ends]
        plot.path(line, fill="none", stroke=ARM_COLOURS[1], stroke_width=1.5)
    plot.legend(left, 14, entries)
    _step_axis(plot, n_steps, left, bottom)
    return plot


def margin(names: Sequence[str]) -> float:
    """Room for names on the left."""
    return 12 + CHARACTER_PX * max(map(len, names))


def _top(room: float, legend: Sequence[tuple[str, str]]) -> float:
    """Room above, for a legend of one line or more."""
    return TOP + LEGEND_PX * (legend_lines(room, [name for _, name in legend]) - 1)


def _grid(
    plan: CachePlan, code: np.ndarray, names: Sequence[str], colours: Sequence[str], width: float
) -> Drawing:
    """Categories: steps to the right, sites downwards, lines between layers."""
    n_steps, n_sites = code.shape
    sites = [site_label(site.name) for site in plan.sites]
    left = margin(sites)
    entries = [(colours[i], names[i]) for i in np.unique(code)]
    top = _top(width - left, entries)
    bottom = top + ROW_PX * n_sites
    across = (width - RIGHT - left) / n_steps
    plot = Drawing(width, bottom + BOTTOM)
    plot.legend(left, 14, entries)
    for i in np.unique(code):
        plot.cells(code == i, left, top, across, ROW_PX, fill=colours[i])
    for row, site in enumerate(sites):
        y = top + ROW_PX * row
        plot.text(left - 6, y + ROW_PX - 3, site, "end", "soft")
        plot.line(left, y, width - RIGHT, y, **{"class": "halo"})
        _name_runs(plot, site, code[:, row], names, left, y, across)
    for bound in layer_bounds(plan):
        y = top + ROW_PX * bound
        plot.line(left, y, width - RIGHT, y, stroke=SEPARATOR, stroke_width=1.5)
    _step_axis(plot, n_steps, left, bottom)
    return plot


def _name_runs(
    plot: Drawing,
    site: str,
    code: np.ndarray,
    names: Sequence[str],
    left: float,
    y: float,
    across: float,
) -> None:
    """What neighbouring steps of a site have in common, on hovering."""
    ends = [0, *(np.flatnonzero(np.diff(code)) + 1).tolist(), len(code)]
    for first, end in pairwise(ends):
        steps = "step" if end - first == 1 else "steps"
        words = f"{site}, {steps} {ranges(range(first, end))}: {names[code[first]]}"
        x, width = left + across * first, across * (end - first)
        plot.rect(x, y, width, ROW_PX, words, **{"class": "hover"})


def _step_axis(plot: Drawing, n_steps: int, left: float, y: float) -> None:
    """Names of steps below the middle of their columns."""
    across = (plot.width - RIGHT - left) / n_steps
    for step in range(0, n_steps, max(1, round(round_step(n_steps / 12)))):
        plot.text(left + across * (step + 0.5), y + 15, str(step), "middle", "soft")
    plot.text((left + plot.width - RIGHT) / 2, y + 33, STEP_AXIS, "middle")
