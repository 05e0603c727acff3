"""What the figures of a page have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

STEP_AXIS = "denoising step (0 = noisiest)"
ROW_PX = 14  # of a site


def empty(height: float, **layout: Any) -> Any:
    """A `plotly.graph_objects.Figure` of this height in pixels, in the page's own colours."""
    import plotly.graph_objects as go

    base: dict[str, Any] = {
        "template": "none",
        "height": round(height),
        "margin": {"l": 56, "r": 12, "t": 12, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "xaxis": {"title": STEP_AXIS, "zeroline": False},
    }
    return go.Figure(layout={**base, **layout})


def site_axis(names: Sequence[str]) -> dict[str, Any]:
    """An axis of sites, the first one at the top."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": list(names),
        "range": [len(names) - 0.5, -0.5],
        "tickfont": {"size": 10},
        "showgrid": False,
        "zeroline": False,
        "title": {"text": "layer and branch", "standoff": 4},
    }
