"""plan.png: the same plans as a picture for papers and terminals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accel import CachePlan
from accel.calibration.calibration import Calibration

from ..formatting import share
from .colours import (
    ARM_COLOURS,
    CELL_COLOURS,
    DIFFERENCE_COLOURS,
    KIND_COLOURS,
    MATRIX,
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
    differing_computed,
    layer_bounds,
    most_volatile,
    site_label,
)
from .plots import STEP_AXIS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI, WIDTH_IN = 150, 12.0
MATRICES = 4


def plan_image(
    path: Path, title: str, arms: Sequence[Arm], calibration: Calibration | None, metric: str
) -> tuple[int, int]:
    """Draw plans, their difference and their cost, and the most volatile sites of a calibration.

    Returns:
        (width, height) in pixels.
    """
    from matplotlib.figure import Figure

    plan = arms[0].plan
    grid_in = 1.2 + 0.13 * max(len(plan.sites), 8)
    heights = [grid_in] * (len(arms) + len(arms[1:])) + [2.8] + [3.0] * (calibration is not None)
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.5), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    bands = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    for arm in arms:
        left, right = next(bands).subplots(1, 2, width_ratios=(5, 1), sharey=True)
        code = cells(arm.plan)
        _draw_grid(left, arm.plan, code, CELL_COLOURS, CELLS)
        left.set_title(f"{arm.label}, {arm.plan.mask.mean():.1%} of cells computed", **_TITLE)
        right.barh(range(len(plan.sites)), arm.updates, color=ARM_COLOURS[0])
        right.set_xlim(0, plan.n_steps)
        right.set_xlabel("update steps", fontsize=8)
        right.tick_params(labelsize=7, labelleft=False)
    if arms[1:]:
        axes = next(bands).subplots()
        other = arms[1].plan
        _draw_grid(axes, plan, differences(plan, other), DIFFERENCE_COLOURS, DIFFERENCES)
        n = differing_computed(plan, other)
        axes.set_title(f"A against B: {n} cells computed in one only", **_TITLE)
    _draw_flops(next(bands).subplots(), arms)
    if calibration is not None:
        _draw_calibration(next(bands), calibration, metric)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", metadata={"Software": None})
    os.replace(temporary, path)
    width, height = figure.get_size_inches()
    return round(width * DPI), round(height * DPI)


_TITLE: dict[str, Any] = {"fontsize": 9, "loc": "left"}


def _draw_grid(
    axes: Axes, plan: CachePlan, code: np.ndarray, colours: Sequence[str], names: Sequence[str]
) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    axes.imshow(
        code.T,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(list(colours)),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
    )
    for bound in layer_bounds(plan):
        axes.axhline(bound - 0.5, color=SEPARATOR, linewidth=0.8)
    axes.set_yticks(range(len(plan.sites)), [site_label(s.name) for s in plan.sites], fontsize=6)
    axes.set_ylabel("site", fontsize=8)
    axes.set_xlabel(STEP_AXIS, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    patches = [
        Patch(facecolor=colours[i], edgecolor=SEPARATOR, label=names[i]) for i in np.unique(code)
    ]
    axes.legend(
        handles=patches,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(patches),
        fontsize=7,
        frameon=False,
        borderaxespad=0.2,
    )


def _draw_flops(axes: Axes, arms: Sequence[Arm]) -> None:
    first = arms[0]
    steps = np.arange(first.plan.n_steps)
    floor = np.zeros(len(steps))
    for kind in [k for k in STACKED if k in first.flops]:
        values = first.flops[kind] / 1e9
        axes.bar(steps, values, 1.0, floor, color=KIND_COLOURS[kind], label=KINDS[kind])
        floor += values
    for other in arms[1:]:
        in_all = np.sum(list(other.flops.values()), axis=0) / 1e9
        axes.step(steps, in_all, where="mid", color=ARM_COLOURS[1], label=f"{other.label}, in all")
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.set_xlabel(STEP_AXIS, fontsize=8)
    axes.set_ylabel("FLOPs of the step (GFLOP)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_title(f"{first.label}: {share(first.share)} of the unaccelerated FLOPs", **_TITLE)
    axes.legend(fontsize=7, frameon=False, ncols=5, loc="lower right", bbox_to_anchor=(1, 1))


def _draw_calibration(band: Any, calibration: Calibration, metric: str) -> None:
    order = most_volatile(calibration)
    shown = order[:MATRICES]
    panels = band.subplots(1, 1 + len(shown), width_ratios=(1.6, *[1] * len(shown)))
    labels = [site_label(calibration.sites[u].name) for u in order]
    panels[0].barh(range(len(order)), calibration.volatility[order], color=ARM_COLOURS[0])
    panels[0].set_yticks(range(len(order)), labels, fontsize=6)
    panels[0].invert_yaxis()
    panels[0].set_xlabel("mean absolute change between two steps", fontsize=8)
    panels[0].set_title("volatility", **_TITLE)
    stack = calibration.similarity[metric][shown]
    for axes, matrix, label in zip(panels[1:], stack, labels, strict=False):
        drawn = axes.imshow(matrix, cmap=MATRIX, vmin=stack.min(), vmax=stack.max())
        axes.set_title(f"{metric}, {label}", **_TITLE)
        axes.set_xlabel("denoising step", fontsize=8)
    band.colorbar(drawn, ax=list(panels[1:]), shrink=0.7).ax.tick_params(labelsize=7)
    for axes in panels:
        axes.tick_params(axis="x", labelsize=7)
    for axes in panels[1:]:
        axes.tick_params(axis="y", labelsize=7)
