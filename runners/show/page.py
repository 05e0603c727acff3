"""plan.html: plans and calibrations as an interactive page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from accel import CachePlan
from accel.calibration.calibration import Calibration

from ..formatting import flops_words, share
from ..html import details, figure, legend, page, section, table
from .calibration import similarity_matrices, volatility_ranking
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
    differing_computed,
    layer_bounds,
    ranges,
    row_words,
    site_label,
    summary,
    total,
)
from .plots import ROW_PX, empty, site_axis

MAX_NAMED = 10_000  # cells of a grid whose names are in the page


def plan_page(title: str, arms: Sequence[Arm], calibration: Calibration | None, metric: str) -> str:
    """The whole page.

    Args:
        title: what was shown.
        arms: one plan, or two over the same grid.
        calibration: what calibrated caches rest on, if anything.
        metric: which of its similarities is drawn.
    """
    body = [section("In numbers", table(["", *(a.label for a in arms)], summary(arms)))]
    for index, arm in enumerate(arms):
        body.append(section(f"Plan {arm.label}", _grid(arm, index)))
    if arms[1:]:
        body.append(section("Where the plans differ", _difference(arms)))
    body += [section("Update steps of each site", _updates(arms)), section("FLOPs", _flops(arms))]
    if calibration is not None:
        body += [
            section("Similarity between steps", similarity_matrices(calibration, metric)),
            section("Volatility", volatility_ranking(calibration)),
        ]
    first = arms[0]
    lead = (
        f"{first.label} computes {first.plan.mask.mean():.1%} of the cells of a query, "
        f"with {share(first.share)} of the FLOPs of the checkpoint's unaccelerated policy. A share "
        "of FLOPs is not a speed-up: runner=evaluate measures latency."
    )
    return page(title, lead, body)


def _layered(
    plan: CachePlan, code: np.ndarray, names: Sequence[str], colours: Sequence[str]
) -> Any:
    """A grid of categories, steps to the right, sites downwards, lines between layers."""
    n_sites = code.shape[1]
    plot = empty(
        90 + ROW_PX * max(n_sites, 8), yaxis=site_axis([site_label(s.name) for s in plan.sites])
    )
    named = code.size <= MAX_NAMED
    edges = np.repeat(np.arange(len(colours) + 1) / len(colours), 2)[1:-1]
    plot.add_heatmap(
        z=code.T,
        zmin=-0.5,
        zmax=len(colours) - 0.5,
        colorscale=[[e, c] for e, c in zip(edges, np.repeat(colours, 2), strict=True)],
        showscale=False,
        ygap=1,
        customdata=np.array(names)[code.T] if named else None,
        hovertemplate="step %{x}, %{y}" + ": %{customdata}" * named + "<extra></extra>",
    )
    for bound in layer_bounds(plan):
        plot.add_hline(y=bound - 0.5, line={"color": SEPARATOR, "width": 1})
    return plot


def _present(code: np.ndarray, colours: Sequence[str], names: Sequence[str]) -> str:
    return legend([(colours[i], names[i]) for i in np.unique(code)])


def _grid(arm: Arm, index: int) -> str:
    code = cells(arm.plan)
    n_steps, n_sites = code.shape
    said = (
        f"{arm.label}: {n_sites} sites over {n_steps} steps, {arm.plan.mask.sum()} of {code.size} "
        "cells computed"
    )
    text = table(
        ["site", "updates", "steps"],
        [
            (site.name, [str(n), ranges(np.flatnonzero(arm.plan.mask[:, u]).tolist())])
            for u, (site, n) in enumerate(zip(arm.plan.sites, arm.updates, strict=True))
        ],
    )
    return figure(
        _layered(arm.plan, code, CELLS, CELL_COLOURS),
        f"grid{index}",
        said,
        f"{said}. A row is {row_words(arm.plan)}, in the order in which the network runs them; "
        "lines separate layers. Colours say what each step computes or adds instead; forecasts are "
        "darker the more stored values they combine.",
        _present(code, CELL_COLOURS, CELLS),
    ) + details("The same as a table", text)


def _difference(arms: Sequence[Arm]) -> str:
    a, b = arms[0].plan, arms[1].plan
    code = differences(a, b)
    said = f"{differing_computed(a, b)} of {code.size} cells are computed in one plan only"
    names = ("both computed", "same hit", *(f"only {w} computed" for w in "AB"), DIFFERENCES[4])
    return figure(
        _layered(a, code, names, DIFFERENCE_COLOURS),
        "difference",
        said,
        f"{said}. A same hit adds the same stored values; "
        "another hit reads other steps or weighs them otherwise.",
        _present(code, DIFFERENCE_COLOURS, names),
    )


def _updates(arms: Sequence[Arm]) -> str:
    names = [site_label(site.name) for site in arms[0].plan.sites]
    plot = empty(
        90 + ROW_PX * max(len(names), 8) * len(arms),
        yaxis=site_axis(names),
        xaxis={"title": "update steps in a query", "rangemode": "tozero"},
        bargap=0.25,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        showlegend=bool(arms[1:]),
    )
    if arms[1:]:
        plot.update_layout(margin_t=40)
    for arm, colour in zip(arms, ARM_COLOURS, strict=False):
        plot.add_bar(
            x=arm.updates,
            y=list(range(len(names))),
            orientation="h",
            name=arm.label,
            marker={"color": colour},
            hovertemplate="%{y}: %{x} update steps<extra></extra>",
        )
    spoken = "; ".join(
        f"{a.label}: {a.updates.mean():.1f} on average, {a.updates.min()} to {a.updates.max()}"
        for a in arms
    )
    return figure(
        plot,
        "updates",
        f"Update steps of each site. {spoken}",
        f"In how many of {arms[0].plan.n_steps} steps each branch is computed. {spoken}.",
    )


def _flops(arms: Sequence[Arm]) -> str:
    first = arms[0]
    plot = empty(
        340,
        barmode="stack",
        bargap=0,
        yaxis={"title": "FLOPs of the step (GFLOP)", "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        margin={"l": 64, "r": 12, "t": 56, "b": 48},
    )
    for kind in [k for k in STACKED if k in first.flops]:
        plot.add_bar(
            x=list(range(first.plan.n_steps)),
            y=first.flops[kind] / 1e9,
            name=KINDS[kind],
            marker={"color": KIND_COLOURS[kind], "line": {"width": 0}},
            hovertemplate="step %{x}: %{y:.3g} GFLOP<extra>" + KINDS[kind] + "</extra>",
        )
    for other in arms[1:]:
        plot.add_scatter(
            x=list(range(other.plan.n_steps)),
            y=sum(other.flops.values()) / 1e9,
            name=f"{other.label}, in all",
            mode="lines",
            line={"shape": "hvh", "width": 1.5, "color": ARM_COLOURS[1]},
            hovertemplate="step %{x}: %{y:.3g} GFLOP<extra></extra>",
        )
    kinds = [
        (
            KINDS[kind],
            [
                f"{first.plain[kind].sum() / 1e9:.3f} G",
                *(_of_plain(a, kind) for a in arms),
            ],
        )
        for kind in first.flops
    ]
    in_all = [
        f"{total(first.plain) / 1e9:.3f} G",
        *(flops_words(a.query, a.share) for a in arms),
    ]
    return figure(
        plot,
        "flops",
        f"FLOPs by denoising step, {first.label}: {first.query / 1e9:.3f} GFLOP a query",
        f"Two FLOPs per multiply-add, one row, engine=reference; bars are {first.label}. "
        "The rest (condition encoder, embeddings and head, or the shallow part of a UNet) is "
        "computed in every step.",
    ) + table(
        ["part", "plain", *(a.label for a in arms)],
        [*kinds, ("all", in_all)],
        "A query's FLOPs by part of the network, and their share of those of the checkpoint's "
        "unaccelerated policy with its own sampler (plain).",
    )


def _of_plain(arm: Arm, kind: str) -> str:
    ours, plain = float(arm.flops[kind].sum()), float(arm.plain[kind].sum())
    return flops_words(ours, ours / plain)
