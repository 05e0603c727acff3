"""The drawings of what calibrated caches rest on."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from accel.calibration.calibration import Calibration

from ..svg import Drawing
from .colours import MATRIX
from .drawings import WIDTH, bars
from .plan_view import most_volatile, site_label

MAX_STEPS = 200  # of a matrix; of more every other one is drawn
TILE, GAP, COLUMNS = 142.0, 18.0, 6
LEVELS = 256


def stride(calibration: Calibration, metric: str) -> int:
    """Every how manieth step is drawn."""
    n_steps: int = calibration.similarity[metric].shape[1]
    return -(-n_steps // MAX_STEPS)


def similarity_matrices(
    calibration: Calibration, metric: str, most: int | None = None, columns: int = COLUMNS
) -> Drawing:
    """A matrix of steps by steps for each site, the most volatile first, on one scale."""
    order, every = most_volatile(calibration)[:most], stride(calibration, metric)
    shown = calibration.similarity[metric][order][:, ::every, ::every]
    low, high = float(shown.min()), float(shown.max())
    levels = np.round((shown - low) / ((high - low) or 1.0) * (LEVELS - 1)).astype(np.uint8)
    down, top = TILE + 34, 44.0
    plot = Drawing(WIDTH * columns / COLUMNS, top + down * -(-len(order) // columns))
    bar = plot.width / 4
    plot.text(0, 14, f"{metric}, from {low:.3g}", kind="soft")
    plot.image(130, 4, bar, 12, png(np.arange(LEVELS, dtype=np.uint8)[None]))
    more = "; step 0, the noisiest, is at the top left" if columns == COLUMNS else ""
    plot.text(136 + bar, 14, f"to {high:.3g}{more}", kind="soft")
    for i, (site, matrix) in enumerate(zip(order, levels, strict=True)):
        x, y = (TILE + GAP) * (i % columns), top + down * (i // columns)
        plot.text(x, y - 5, site_label(calibration.sites[site].name))
        plot.image(x, y, TILE, TILE, png(matrix))
        plot.rect(x, y, TILE, TILE, fill="none", **{"class": "edge"})
    return plot


def volatility_bars(calibration: Calibration, width: float = WIDTH) -> Drawing:
    """Sites by volatility."""
    order = most_volatile(calibration)
    values = calibration.volatility[order]
    return bars(
        [site_label(calibration.sites[site].name) for site in order],
        [values],
        "mean absolute change between two steps",
        [[f"{value:.4g}" for value in values]],
        across=width,
    )


def png(levels: np.ndarray) -> str:
    """(height, width) uint8 in the colours of `MATRIX`, as base64 of a PNG file."""
    stops = np.array([list(bytes.fromhex(colour[1:])) for colour in MATRIX], dtype=float)
    places = np.linspace(0, len(stops) - 1, LEVELS)
    palette = np.stack([np.interp(places, range(len(stops)), c) for c in stops.T], axis=1)
    height, width = levels.shape
    lines = np.pad(levels, ((0, 0), (1, 0)))  # each line begins with its filter, 0 for none
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.round().astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()
