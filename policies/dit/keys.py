"""The names of a DiT's weights in a LeRobot file, and what becomes of them here.

LeRobot has one layer for the modulation of a whole block, and another attention where positions are
not rotary: torch's, whose projections are the same rows under other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

PREFIX = "noise_predictor."
HALVES = ("attn", "mlp")  # of the modulation, in the order of its rows
OF_HALVES = re.compile(r"(.*\.)(attn|mlp)_modulation\.linear\.(weight|bias)")
STOCK = {".attn.qkv_proj.": ".multihead_attn.in_proj_", ".attn.out_": ".multihead_attn.out_"}


def theirs(key: str, use_rope: bool = True) -> str:
    """LeRobot's name of what holds a weight of `Dit`.

    Example:
        >>> theirs("transformer_blocks.0.mlp_modulation.linear.bias")
        'noise_predictor.transformer_blocks.0.adaLN_modulation.1.bias'
        >>> theirs("transformer_blocks.0.attn.qkv_proj.bias", use_rope=False)
        'noise_predictor.transformer_blocks.0.multihead_attn.in_proj_bias'
    """
    if half := OF_HALVES.fullmatch(key):
        return f"{PREFIX}{half[1]}adaLN_modulation.1.{half[3]}"
    for ours, stock in () if use_rope else STOCK.items():
        key = key.replace(ours, stock)
    return PREFIX + key


def joined_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """{our key: shape} of the layers as LeRobot has them, halves joined under the first's name."""
    found = {}
    for key, shape in shapes.items():
        half = OF_HALVES.fullmatch(key)
        if half is None:
            found[key] = shape
        elif half[2] == HALVES[0]:
            found[key] = (len(HALVES) * shape[0], *shape[1:])
    return found


def parted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our keys, halves parted, from those that `joined_shapes` names."""
    found = {}
    for key, value in state.items():
        half = OF_HALVES.fullmatch(key)
        if half is None:
            found[key] = value
            continue
        for name, rows in zip(HALVES, value.chunk(len(HALVES)), strict=True):
            found[f"{half[1]}{name}_modulation.linear.{half[3]}"] = rows.contiguous()
    return found
