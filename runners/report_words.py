"""Numbers as a report writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any


def interval(bounds: tuple[float, float], form: str = ".2f") -> str:
    return f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def ms(value: float) -> str:
    """Four digits, without an exponent."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def points(share: float) -> str:
    """A signed difference of rates in percentage points."""
    return f"{100 * share:+.0f}" if round(100 * share) else "0"


def short(value: float) -> str:
    return f"{value:g}" if value < 1000 else f"{value / 1000:g}k"


def times(value: float) -> str:
    return f"{value:g}x"


def counted(words: Sequence[str]) -> str:
    """40 duquant, 8 rtn."""
    return ", ".join(f"{n} {word}" for word, n in Counter(words).most_common())


def simulated_words(layers: Sequence[Mapping[str, Any]]) -> str:
    """4-bit weights, multiplied as 8-bit integers (12 layers); empty where nothing is."""
    parts = Counter(layer["simulated"] for layer in layers if layer["simulated"])
    return "; ".join(f"{part} ({n} layers)" for part, n in parts.most_common())


def quantisation_words(quantisation: Mapping[str, Any]) -> list[str]:
    """What result.json says of a quantisation, as lines."""
    layers = quantisation["layers"]
    errors, crests = (
        [x["error"] for x in layers],
        [(x["crest_before"], x["crest_after"]) for x in layers],
    )
    size = quantisation["bytes_after"] / quantisation["bytes_before"]
    said = [
        f"{len(layers)} layers, {quantisation['share']:.0%} of the multiply-adds, "
        f"W{quantisation['weight_bits']}A{quantisation['activation_bits']}: "
        f"{counted([x['method'] for x in layers])}; {size:.2f}x of their bytes",
        f"predicted error {min(errors):.2%} to {max(errors):.2%} a layer, crest factor "
        f"{mean(b for b, _ in crests):.1f} before, {mean(a for _, a in crests):.1f} after",
        f"kernels: {counted([x['kernel'] for x in layers])}",
    ]
    simulated = simulated_words(layers)
    said += [f"simulated: {simulated}"] if simulated else []
    return [*said, *(f"warning: {words}" for words in quantisation["warnings"])]
