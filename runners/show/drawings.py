"""The drawings of plans, for the page and for the picture alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from accel import CachePlan

from ..svg import CHARACTER_PX, Drawing, Scale, round_step
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
ROW_PX = 14.0  # of a site
TOP, BOTTOM = 24.0, 40.0  # for a legend above, and for the axis below


def plan_grid(plan: CachePlan) -> Drawing:
    """What each step computes of each site, or adds instead."""
    return _grid(plan, cells(plan), CELLS, CELL_COLOURS)


def difference_grid(a: CachePlan, b: CachePlan) -> Drawing:
    """Where two plans over one grid differ."""
    return _grid(a, differences(a, b), DIFFERENCES, DIFFERENCE_COLOURS)


def update_bars(arms: Sequence[Arm]) -> Drawing:
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
    )


def bars(
    names: Sequence[str],
    values: Sequence[np.ndarray],
    title: str,
    said: Sequence[Sequence[str]],
    legend: Sequence[tuple[str, str]] = (),
) -> Drawing:
    """Horizontal bars.

    Args:
        names: of the rows, from above.
        values: one array over the rows for each arm.
        title: of the axis.
        said: on hovering, likewise.
        legend: (colour, name) of the arms, where there is more than one.
    """
    left, down = margin(names), ROW_PX * len(values)
    bottom = TOP + down * len(names)
    most = max(float(max(row.max() for row in values)), 1e-9)
    plot, scale = Drawing(WIDTH, bottom + BOTTOM), Scale(0, most, left, WIDTH - RIGHT)
    plot.legend(left, 14, legend)
    plot.axis_x(scale, bottom, TOP, title, lambda v: f"{v:.4g}")
    for row, name in enumerate(names):
        y = TOP + down * row
        plot.text(left - 6, y + down / 2 + 4, name, "end", "soft")
        for arm, (found, words) in enumerate(zip(values, said, strict=True)):
            width = scale(float(found[row])) - left
            place = (left, y + ROW_PX * arm + 1, width, ROW_PX - 2)
            plot.rect(*place, f"{name}: {words[row]}", fill=ARM_COLOURS[arm])
    return plot


def flops_by_step(arms: Sequence[Arm]) -> Drawing:
    """FLOPs of the first arm's steps by part of the network; of the second one's in all."""
    first, left, bottom = arms[0], 56.0, 300.0
    n_steps, kinds = first.plan.n_steps, [k for k in STACKED if k in first.flops]
    in_all = [np.sum(list(arm.flops.values()), axis=0) / 1e9 for arm in arms]
    plot = Drawing(WIDTH, bottom + BOTTOM)
    y = Scale(0, float(max(row.max() for row in in_all)), bottom, TOP + 30)
    plot.axis_y(y, left, WIDTH - RIGHT, "FLOPs of the step (GFLOP)", lambda v: f"{v:.4g}")
    across = (WIDTH - RIGHT - left) / n_steps
    floor = np.zeros(n_steps)
    for kind in kinds:
        values = first.flops[kind] / 1e9
        for step in np.flatnonzero(values):
            top, height = y(floor[step] + values[step]), y(0) - y(float(values[step]))
            words = f"step {step}: {values[step]:.3g} GFLOP, {KINDS[kind]}"
            place = (left + across * float(step), top, across, height)
            plot.rect(*place, words, fill=KIND_COLOURS[kind])
        floor += values
    entries = [(KIND_COLOURS[kind], KINDS[kind]) for kind in kinds]
    for arm, values in zip(arms[1:], in_all[1:], strict=True):
        edges = [(left + across * i, left + across * (i + 1)) for i in range(n_steps)]
        line = [(x, y(float(v))) for ends, v in zip(edges, values, strict=True) for x in ends]
        plot.path(line, fill="none", stroke=ARM_COLOURS[1], stroke_width=1.5)
        entries.append((ARM_COLOURS[1], f"{arm.label}, in all"))
    plot.legend(left, 14, entries)
    _step_axis(plot, n_steps, left, bottom)
    return plot


def margin(names: Sequence[str]) -> float:
    """Room for names on the left."""
    return 12 + CHARACTER_PX * max(map(len, names))


def _grid(
    plan: CachePlan, code: np.ndarray, names: Sequence[str], colours: Sequence[str]
) -> Drawing:
    """Categories: steps to the right, sites downwards, lines between layers."""
    n_steps, n_sites = code.shape
    sites = [site_label(site.name) for site in plan.sites]
    left, bottom = margin(sites), TOP + ROW_PX * n_sites
    across = (WIDTH - RIGHT - left) / n_steps
    plot = Drawing(WIDTH, bottom + BOTTOM)
    plot.legend(left, 14, [(colours[i], names[i]) for i in np.unique(code)])
    for i in np.unique(code):
        plot.cells(code == i, left, TOP, across, ROW_PX, fill=colours[i])
    for row, site in enumerate(sites):
        y = TOP + ROW_PX * row
        plot.text(left - 6, y + ROW_PX - 3, site, "end", "soft")
        plot.line(left, y, WIDTH - RIGHT, y, **{"class": "halo"})
        _name_runs(plot, site, code[:, row], names, left, y, across)
    for bound in layer_bounds(plan):
        y = TOP + ROW_PX * bound
        plot.line(left, y, WIDTH - RIGHT, y, stroke=SEPARATOR, stroke_width=1.5)
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
    across = (WIDTH - RIGHT - left) / n_steps
    for step in range(0, n_steps, max(1, round(round_step(n_steps / 12)))):
        plot.text(left + across * (step + 0.5), y + 15, str(step), "middle", "soft")
    plot.text((left + WIDTH - RIGHT) / 2, y + 33, STEP_AXIS, "middle")
