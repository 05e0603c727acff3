"""What was quantised, layer by layer, and what was left out."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from .statistics import Statistics

log = logging.getLogger(__name__)

ENOUGH = 0.95  # of the multiply-adds of the blocks; with less, what is left out is a warning
NAMED = 4  # groups of layers that a message names
MEMORY = "keys and values of a memory, made once a query"


@dataclass(frozen=True)
class LayerReport:
    """One quantised layer, for people and for the file.

    Attributes:
        shape: (N, K).
        method: that was chosen; `errors` has what the others would have cost.
        arithmetic: integer or simulated.
        simulated: which part is not executed as it is named; "" where all is.
        error: relative error of its outputs on the calibration's tokens.
        errors: {method: error} of all methods tried.
        crest_before, crest_after: mean over tokens of max / rms of its inputs, transformed or not.
        drift: largest over smallest of the calls' peaks.
        bytes_before, bytes_after: of its tensors.
        share: of the multiply-adds of all linear layers of the model, in the calibration.
    """

    name: str
    shape: tuple[int, int]
    method: str
    weight_bits: int
    activation_bits: int
    arithmetic: str
    simulated: str
    error: float
    errors: dict[str, float]
    crest_before: float
    crest_after: float
    drift: float
    bytes_before: int
    bytes_after: int
    share: float


@dataclass(frozen=True)
class LeftOut:
    """A linear layer that was not quantised.

    Attributes:
        shape: (N, K).
        share: of the multiply-adds of all linear layers of the model, in the calibration; 0 where
            it was not called there.
        reason: the setting that leaves it out.
        in_block: whether it is in a list of blocks (an nn.ModuleList).
    """

    name: str
    shape: tuple[int, int]
    share: float
    reason: str
    in_block: bool


def left_out(
    model: nn.Module,
    found: Mapping[str, nn.Linear],
    reasons: Mapping[str, str],
    statistics: Statistics,
) -> tuple[LeftOut, ...]:
    """The layers of `found` that have a reason, those with the most multiply-adds first."""
    shares = shares_of(found, statistics)
    lists = tuple(
        f"{name}." if name else ""
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    )
    missing = [
        LeftOut(
            name=name,
            shape=(found[name].out_features, found[name].in_features),
            share=shares.get(name, 0.0),
            reason=reason,
            in_block=bool(lists) and name.startswith(lists),
        )
        for name, reason in reasons.items()
    ]
    return tuple(sorted(missing, key=lambda layer: (-layer.share, layer.name)))


def shares_of(found: Mapping[str, nn.Linear], statistics: Statistics) -> dict[str, float]:
    """{layer: its share of the multiply-adds of the linear layers that the calibration called}."""
    costs = {
        name: seen.n_tokens * found[name].weight.numel() for name, seen in statistics.layers.items()
    }
    total = sum(costs.values())
    return {name: cost / total for name, cost in costs.items()}


def say(layers: Sequence[LayerReport], missing: Sequence[LeftOut]) -> None:
    """Log how much was quantised; as a warning where the blocks lose more than 1 - ENOUGH."""
    done = sum(layer.share for layer in layers)
    log.info(
        "quantised %d of %d linear layers, %.1f%% of their multiply-adds; left out: %s",
        *(len(layers), len(layers) + len(missing), 100 * done, grouped(missing) or "none"),
    )
    blocks = [m for m in missing if m.in_block and m.reason != MEMORY]
    lost = sum(layer.share for layer in blocks)
    if lost > (1 - ENOUGH) * (done + lost):
        log.warning(
            "%d linear layers of the blocks are not quantised, %.1f%% of the multiply-adds of all "
            "linear layers: %s; quant.include chooses layers by name",
            *(len(blocks), 100 * lost, grouped(blocks)),
        )


def grouped(missing: Iterable[LeftOut]) -> str:
    """Layers by their names without numbers, the costly ones first, in few words."""
    shares: Counter[tuple[str, str]] = Counter()
    for layer in missing:
        shares[re.sub(r"(?<=\.)\d+(?=\.)", "N", layer.name), layer.reason] += layer.share  # type: ignore[assignment]
    named = [f"{n} ({s:.1%}, {why})" for (n, why), s in shares.most_common(NAMED)]
    more = len(shares) - len(named)
    return ", ".join(named) + (f" and {more} more kinds" if more > 0 else "")
