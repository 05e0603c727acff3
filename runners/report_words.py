"""Numbers as a report writes them."""

from __future__ import annotations


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
