"""Cache maps: which branch was computed in which denoising step, a small picture per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from ..studies.comparisons import Arm
from ..svg import cell_path
from .charts import named

STYLE = """
.maps { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.maps svg { display: block; width: 100%; height: 5.5rem; border: 1px solid var(--line); }
.maps figcaption { font-size: .8rem; line-height: 1.3; }
"""
LEVELS = 5


def maps(arms: Sequence[Arm], colour: Mapping[int, str]) -> str:
    """One map per arm; darker cells were computed in more of the queries."""
    return f'<div class="maps">{"".join(_map(arm, colour[arm.number]) for arm in arms)}</div>'


def computed_share(arm: Arm) -> np.ndarray:
    """(n_steps, n_sites), share of queries in which a cell was computed."""
    stats = arm.run.result["stats"]
    share: np.ndarray = np.asarray(stats["computed"]) / max(stats["n_queries"], 1)
    return share


def _map(arm: Arm, colour: str) -> str:
    share = computed_share(arm)
    n_steps, n_sites = share.shape
    level = np.ceil(share * LEVELS - 1e-9).astype(int)
    paths = "".join(
        f'<path d="{cell_path(level == k)}" fill="{colour}" fill-opacity="{k / LEVELS:g}"/>'
        for k in range(1, LEVELS + 1)
        if (level == k).any()
    )
    said = f"{named(arm)}: {share.mean():.0%} of {n_steps} steps x {n_sites} branches computed"
    return (
        f'<figure><svg viewBox="0 0 {n_steps} {n_sites}" preserveAspectRatio="none" '
        f'shape-rendering="crispEdges" role="img" aria-label="{escape(said)}">{paths}</svg>'
        f"<figcaption>{escape(said)}</figcaption></figure>"
    )
