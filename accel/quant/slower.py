"""Whether quantised layers are slower than what they stand for, said in one warning."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from .choice import timed
from .config import OFF
from .kernels import KERNELS, Entry, refusal
from .linear import QuantisedLinear
from .statistics import Statistics

log = logging.getLogger(__name__)

MOST_ROWS = 64  # of a call that is timed
ROUNDS_LOST = 0.75  # share of rounds in which a kernel must be slower


def rows_of_calls(statistics: Statistics) -> dict[str, int]:
    """{layer: tokens of a call in the calibration, at most MOST_ROWS}."""
    return {
        name: max(1, min(MOST_ROWS, seen.n_tokens // max(1, len(seen.peaks))))
        for name, seen in statistics.layers.items()
    }


def slower(
    layers: Mapping[str, QuantisedLinear],
    chosen: Mapping[str, str],
    rows: Mapping[str, int] | int,
    table: Mapping[str, Entry] = KERNELS,
) -> str:
    """How many layers are slower than float32, by how much, and which settings make them so.

    Args:
        layers: by name; layers of one shape and number of rows are timed once a process.
        chosen: {layer: kernel}.
        rows: tokens of a call, of all layers or {layer: tokens}.
        table: of the kernels.

    Returns:
        One line; empty where none is slower.
    """
    ratios: dict[str, float] = {}
    for name, layer in layers.items():
        n = rows if isinstance(rows, int) else rows.get(name, MOST_ROWS)
        own, full = timed([chosen[name], "fp32"], layer, n, table).T
        if chosen[name] != "fp32" and (own > full).mean() >= ROUNDS_LOST:
            ratios[name] = float(np.median(own / full))
    if not ratios:
        return ""
    reasons = dict.fromkeys(reason(layers[name], chosen[name]) for name in ratios)
    return (
        f"{len(ratios)} of {len(layers)} quantised layers are slower than float32 here, by "
        f"{np.median(list(ratios.values())):.1f}x in the median: {'; '.join(reasons)}; leave them "
        f"out with quant.exclude, for example {max(ratios, key=lambda name: ratios[name])}"
    )


def reason(layer: QuantisedLinear, kernel: str) -> str:
    """The settings of a layer that is slow, and what that makes of it."""
    spec = layer.spec
    bits = f"quant.weight_bits={spec.weight_bits} quant.activation_bits={spec.activation_bits}"
    if kernel != "torch":
        turned = f" quant.row_rot=restore of {spec.rows}" if spec.rows > 1 else ""
        return f"{bits} quant.block={spec.block}{turned} (kernel {kernel})"
    if spec.activation_bits == OFF or spec.weight_bits == OFF:
        return f"{bits}: a side that is not quantised is computed in torch"
    if spec.arithmetic == "simulated":
        return f"quant.activation={spec.activation}: simulated in floating point"
    why = refusal("native", layer)
    return f"torch computes them: {why}" if why else "torch computes them, as the engine asked"


def warn_slower(
    layers: Mapping[str, QuantisedLinear],
    chosen: Mapping[str, str],
    rows: Mapping[str, int] | int,
    table: Mapping[str, Entry] = KERNELS,
) -> None:
    """Log what `slower` says, if anything, as one warning."""
    if said := slower(layers, chosen, rows, table):
        log.warning("%s", said)
