"""The rows as one HTML page: medians with p10 and p90, one panel a row."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .setting import Unavailable
from .table import title


def write_plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a page that needs no network.

    Raises:
        Unavailable: plotly is missing.
    """
    try:
        from plotly import graph_objects
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise Unavailable(f"{error}; pip install 'skipstep[report]'") from error
    figure = make_subplots(
        rows=len(rows),
        cols=1,
        subplot_titles=[title(row["setting"]) for row in rows],
        vertical_spacing=0.3 / len(rows) if len(rows) > 1 else 0.0,
    )
    for i, row in enumerate(rows, 1):
        arms = {k: v for k, v in reversed(row["arms"].items()) if "unavailable" not in v}
        p10, p50, p90 = ([arm[f"p{p}_ms"] for arm in arms.values()] for p in (10, 50, 90))
        bars = graph_objects.Bar(
            x=p50,
            y=list(arms),
            orientation="h",
            text=[f"{arm['times_as_fast']:.2f}x" for arm in arms.values()],
            error_x={
                "type": "data",
                "array": [high - mid for mid, high in zip(p50, p90, strict=True)],
                "arrayminus": [mid - low for low, mid in zip(p10, p50, strict=True)],
            },
            marker_color=["#1f6f8b" if "fused" in name else "#b0b7bd" for name in arms],
            showlegend=False,
        )
        figure.add_trace(bars, row=i, col=1)
        figure.update_xaxes(title_text="ms a query (p50, bars p10 to p90)", row=i, col=1)
    figure.update_layout(height=120 + 340 * len(rows), template="plotly_white")
    temporary = path.with_name(f".{path.name}.tmp")
    figure.write_html(temporary, include_plotlyjs=True)
    os.replace(temporary, path)
