"""The part of plan.html on what calibrated caches rest on."""

from __future__ import annotations

import base64

import numpy as np

from accel.calibration.calibration import Calibration

from ..html import details, figure, script, selector, table
from .colours import ARM_COLOURS, MATRIX
from .plan_view import most_volatile, site_label
from .plots import ROW_PX, STEP_AXIS, empty, site_axis

MAX_VALUES = 250_000  # of all matrices in a page, two bytes each
LEVELS = 65535
SELECT = """
const plot = document.getElementById("matrix");
const unpack = (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const values = new Uint16Array(bytes.buffer);
  const row = (i) => Array.from(values.subarray(i * size, (i + 1) * size));
  return Array.from({ length: size }, (_, i) =>
    row(i).map((v) => low + (v / levels) * (high - low)));
};
document.getElementById("site").addEventListener("change", (event) =>
  Plotly.restyle(plot, { z: [unpack(packed[event.target.value])] }));
"""


def similarity_matrices(calibration: Calibration, metric: str) -> str:
    """One matrix with a list of sites beside it; the others are packed into the page."""
    stack, order = calibration.similarity[metric], most_volatile(calibration)
    n_steps = stack.shape[1]
    stride = int(np.ceil(n_steps / max(1, np.sqrt(MAX_VALUES / len(stack)))))
    steps = np.arange(0, n_steps, stride)
    shown = stack[order][:, ::stride, ::stride]
    low, high = float(shown.min()), float(shown.max())
    if low == high:
        high = low + 1.0
    levels = np.round((shown - low) / (high - low) * LEVELS).astype("<u2")
    labels = [site_label(calibration.sites[u].name) for u in order]
    plot = empty(
        460,
        xaxis={"title": STEP_AXIS, "constrain": "domain", "showgrid": False, "zeroline": False},
        yaxis={
            "title": "denoising step",
            "autorange": "reversed",
            "scaleanchor": "x",
            "constrain": "domain",
            "showgrid": False,
            "zeroline": False,
        },
    )
    plot.add_heatmap(
        z=shown[0].round(4).tolist(),
        x=steps,
        y=steps,
        zmin=low,
        zmax=high,
        colorscale=MATRIX,
        colorbar={"title": {"text": metric, "side": "top"}, "thickness": 12},
        hovertemplate="steps %{x} and %{y}: %{z:.4f}<extra></extra>",
    )
    every = f" Every {stride}th step is drawn." if stride > 1 else ""
    return figure(
        plot,
        "matrix",
        f"{metric} between the outputs of one site at two steps, mean of "
        f"{calibration.n_queries} queries",
        f"{metric} between the outputs of the chosen site at each pair of steps, mean over "
        f"{calibration.n_queries} queries; one scale for all sites. The sites are in the list "
        f"with the most volatile first.{every}",
        selector("site", "site", labels),
        "34rem",
    ) + script(
        SELECT,
        packed=[base64.b64encode(m.tobytes()).decode() for m in levels],
        size=len(steps),
        low=low,
        high=high,
        levels=LEVELS,
    )


def volatility_ranking(calibration: Calibration) -> str:
    """Sites by volatility, as bars and as a table."""
    order = most_volatile(calibration)
    labels = [site_label(calibration.sites[u].name) for u in order]
    values = calibration.volatility[order]
    plot = empty(
        90 + ROW_PX * max(len(labels), 8),
        yaxis=site_axis(labels),
        xaxis={"title": "mean absolute change between two steps", "rangemode": "tozero"},
    )
    plot.add_bar(
        x=values,
        y=list(range(len(labels))),
        orientation="h",
        marker={"color": ARM_COLOURS[0]},
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
    )
    rows = [
        (calibration.sites[u].name, [str(rank), f"{calibration.volatility[u]:.5g}"])
        for rank, u in enumerate(order, 1)
    ]
    return figure(
        plot,
        "volatility",
        f"Volatility of each site; the most volatile is {labels[0]}",
        "Mean of |output in step i - output in step j| over queries, pairs of steps and elements.",
    ) + details("The same as a table", table(["site", "rank", "volatility"], rows))
