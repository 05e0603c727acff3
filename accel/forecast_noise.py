"""Whether a cache's forecasts make a quantisation's noise louder than what they forecast."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .calibration.calibration import Calibration
from .engines.parts import engine_name
from .plans.plan import CachePlan
from .quant.report import LayerReport

OF_DIT = re.compile(r"model\.(transformer_blocks\.\d+)\.(attn|mlp)(?:_modulation)?\..+")
OPS = {"attn": "sa", "mlp": "ff"}


@dataclass(frozen=True)
class LoudForecasts:
    """Hits whose amplified noise exceeds what changes until their step.

    Attributes:
        n_loud, n_hits: how many of all hits.
        site, step: of the loudest.
        gain: its |alpha|_2, by which independent noise on stored values grows.
        noise: of its branch, relative to the branch's size.
        change: of its branch since the newest stored value, likewise.
    """

    n_loud: int
    n_hits: int
    site: str
    step: int
    gain: float
    noise: float
    change: float

    def __str__(self) -> str:
        return (
            f"in {self.n_loud} of {self.n_hits} hits the forecast makes the quantisation's noise "
            f"larger than what it forecasts (most in step {self.step} of {self.site}: "
            f"{self.gain:.2f} x {self.noise:.1%} against {self.change:.1%}): more bits, a smaller "
            "cache.damping or cache.forecast=reuse"
        )


def branch_noise(
    plan: CachePlan, layers: Sequence[LayerReport], encoder_only: bool
) -> dict[str, float]:
    """{site: relative error of its branch}, its layers' predicted errors taken as independent."""
    squares = dict.fromkeys((site.name for site in plan.sites), 0.0)
    for layer in layers:
        site = _site_of(layer.name, encoder_only)
        if site is not None:
            squares[site] += layer.error**2
    return {name: square**0.5 for name, square in squares.items()}


def _site_of(layer: str, encoder_only: bool) -> str | None:
    """The branch that a layer belongs to, if it is of the main stack."""
    if block := OF_DIT.fullmatch(layer):
        return f"{block[1]}.{OPS[block[2]]}"
    name = engine_name(layer, encoder_only)
    if name is None:
        return None
    index, op, _ = name.split(".")
    return f"{'encoder' if encoder_only else 'decoder'}.layers.{index}.{op}"


def loud_forecasts(
    plan: CachePlan,
    calibration: Calibration,
    layers: Sequence[LayerReport],
    encoder_only: bool = False,
) -> LoudForecasts | None:
    """Hits with |alpha|_2 > 1 whose gain x noise exceeds the step change; None without any.

    A hit that reuses a value repeats its noise and does not amplify it.
    """
    noises = branch_noise(plan, layers, encoder_only)
    found: list[tuple[float, LoudForecasts]] = []
    for step, u in np.argwhere(~plan.mask):
        cells = plan.forecast(int(step), int(u))
        gain = float(np.linalg.norm([c for _, c in cells])) if cells else 0.0
        if gain <= 1 + 1e-9:
            continue
        anchor, gram = cells[0][0], calibration.gram[u]
        size = max(float(gram[anchor, anchor]), 1e-30) ** 0.5
        moved = gram[step, step] + gram[anchor, anchor] - 2 * gram[step, anchor]
        change = max(float(moved), 0.0) ** 0.5 / size
        noise = noises[plan.sites[u].name]
        if gain * noise > change:
            loud = LoudForecasts(
                0, int((~plan.mask).sum()), plan.sites[u].name, int(step), gain, noise, change
            )
            found.append((gain * noise - change, loud))
    if not found:
        return None
    loudest = max(found, key=lambda pair: pair[0])[1]
    return LoudForecasts(**{**vars(loudest), "n_loud": len(found)})
