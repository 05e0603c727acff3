"""Error against FLOPs share and against latency, one line per family: a page and a picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.setting import Unavailable

SHOWN = ("even", "quadratic", "ddim", "bac", "bac equal", "block", "hash_ab chosen")
COLOURS = (
    *("#1f6f8b", "#c8553d", "#588157", "#7b5ea7", "#d9a441", "#4a4e69", "#b0517f", "#2a9d8f"),
    *("#8d6b4f", "#6c757d"),
)
Axis = tuple[str, Callable[[Mapping[str, Any]], float | None]]
AXES: tuple[Axis, ...] = (
    ("FLOPs share", lambda row: row["flops_share"]),
    ("time share (median, batch 1)", lambda row: _time_share(row)),
)


def _time_share(row: Mapping[str, Any]) -> float | None:
    return 1 / row["latency"]["times_as_fast"] if "latency" in row else None


def axes_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Axis, ...]:
    """Those of `AXES` of which the rows say anything: nothing was timed with --rounds 0."""
    placed = [row for row in rows if row["steps"] is not None]
    return tuple(axis for axis in AXES if any(axis[1](row) is not None for row in placed))


def lines(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """{(sampler, family): its rows, cheapest first}."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["steps"] is not None:
            found.setdefault((row["sampler"], row["family"]), []).append(row)
    return {k: sorted(v, key=lambda row: float(row["flops_share"])) for k, v in found.items()}


def write_page(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Every family; the legend turns lines on and off. The page needs no network.

    Raises:
        Unavailable: plotly is missing.
    """
    try:
        from plotly import graph_objects
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise Unavailable(f"{error}; pip install 'skipstep[report]'") from error
    samplers, axes = list(dict.fromkeys(row["sampler"] for row in rows)), axes_of(rows)
    figure = make_subplots(
        rows=len(samplers),
        cols=len(axes),
        subplot_titles=[f"{sampler}, by {name}" for sampler in samplers for name, _ in axes],
    )
    families = list(dict.fromkeys(family for _, family in lines(rows)))
    seen: set[str] = set()
    for (sampler, family), points in lines(rows).items():
        for column, (name, value) in enumerate(axes, 1):
            placed = sorted((x, p) for x, p in ((value(p), i) for i, p in enumerate(points)) if x)
            figure.add_trace(
                graph_objects.Scatter(
                    x=[x for x, _ in placed],
                    y=[points[i]["error_mean"] for _, i in placed],
                    text=[
                        f"{points[i]['arm']}, S={points[i]['steps']}<br>{points[i]['settings']}"
                        for _, i in placed
                    ],
                    name=family,
                    legendgroup=family,
                    showlegend=family not in seen,
                    visible=True if family in SHOWN else "legendonly",
                    mode="lines+markers",
                    line_color=COLOURS[families.index(family) % len(COLOURS)],
                ),
                row=samplers.index(sampler) + 1,
                col=column,
            )
            seen.add(family)
            place = {"row": samplers.index(sampler) + 1, "col": column}
            figure.update_xaxes(title_text=name, tickformat=".0%", **place)
            figure.update_yaxes(title_text="action error (RMS, normalised)", type="log", **place)
    figure.update_layout(
        title=title, height=80 + 460 * len(samplers), template="plotly_white", hovermode="closest"
    )
    temporary = path.with_name(f".{path.name}.tmp")
    figure.write_html(temporary, include_plotlyjs=True)
    os.replace(temporary, path)


def write_picture(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """The families of `SHOWN`.

    Raises:
        Unavailable: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unavailable(f"{error}; pip install 'skipstep[report]'") from error
    samplers, shown = list(dict.fromkeys(row["sampler"] for row in rows)), axes_of(rows)
    figure = Figure(figsize=(5.5 * len(shown), 4.2 * len(samplers)), layout="constrained")
    axes = figure.subplots(len(samplers), len(shown), squeeze=False)
    for (sampler, family), points in lines(rows).items():
        if family not in SHOWN:
            continue
        for axis, (name, value) in zip(axes[samplers.index(sampler)], shown, strict=True):
            placed = sorted((x, p["error_mean"]) for p in points if (x := value(p)) is not None)
            if placed:
                colour = COLOURS[SHOWN.index(family)]
                xs, ys = zip(*placed, strict=True)
                axis.plot(xs, ys, "o-", label=family, color=colour)
            axis.set(
                title=sampler, xlabel=name, ylabel="action error (RMS, normalised)", yscale="log"
            )
    for axis in axes.flat:
        if axis.get_lines():
            axis.legend(fontsize=7)
            axis.xaxis.set_major_formatter("{x:.0%}")
    figure.suptitle(title)
    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary, dpi=130)
    os.replace(temporary, path)
