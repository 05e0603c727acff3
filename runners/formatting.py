"""Numbers as a report writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

NOTHING = "-"  # what was not measured, or cannot be told


def task_words(result: Mapping[str, Any]) -> str:
    """A result's task, and its world where it has many."""
    return " ".join([result["task"], *filter(None, [result.get("world")])])


def underlined(title: str, lines: Iterable[str]) -> str:
    """What a run ends with in a terminal."""
    return "\n".join(["", title, "-" * len(title), *lines])


def named(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of a name and what it says."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells, each as wide as its column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def rate(value: float) -> str:
    """A success rate: two digits, and more where 0.00 or 1.00 would say too much."""
    return _unless_it_vanishes(value, "", (0.0, 1.0))


def change(value: float) -> str:
    """A signed difference of rates: two digits, and more where that would be 0.00."""
    return _unless_it_vanishes(value, "+", (0.0,))


def _unless_it_vanishes(value: float, sign: str, exact: tuple[float, ...]) -> str:
    for digits in (2, 3, 4):
        close = [e for e in exact if round(abs(value), digits) == e]
        if not close or abs(abs(value) - close[0]) < 1e-6:
            return f"{round(value, digits) + 0.0:{sign}.{digits}f}"
    return f"{value:{sign}.5f}"


def rates(value: float, bounds: tuple[float, float]) -> str:
    """0.84 [0.79, 0.87]."""
    return f"{rate(value)} [{', '.join(map(rate, bounds))}]"


def changes(value: float, bounds: tuple[float, float]) -> str:
    """-0.04 [-0.08, -0.001]."""
    return f"{change(value)} [{', '.join(map(change, bounds))}]"


def share(value: float | None) -> str:
    """Of the FLOPs of the checkpoint's unaccelerated policy."""
    return NOTHING if value is None else f"{value:.1%}"


def flops_words(query: float | None, of: float | None) -> str:
    return NOTHING if query is None else f"{query / 1e9:.3f} G ({share(of)})"


def stages_words(stages_ms: Mapping[str, tuple[float, float]]) -> str:
    """As in: p50 encode 12.1, denoise 45.3 ms; unaccelerated 12, 310."""
    fast, plain = ([ms(both[i]) for both in stages_ms.values()] for i in range(2))
    said = [f"{stage} {value}" for stage, value in zip(stages_ms, fast, strict=True)]
    return f"p50 {', '.join(said)} ms; unaccelerated {', '.join(plain)}"


def encode_words(flops: float) -> str:
    """What the encoder adds to the FLOPs of a query, whatever is accelerated after it."""
    return f"{flops / 1e9:.3f} G of encoding, once a query; shares count it in both"


def steps_words(value: float | None) -> str:
    """How many steps of a schedule that all sites share cost as much."""
    return NOTHING if value is None else f"{value:.1f}"


def speed(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """How many times as fast: 7.38x [7.21, 7.60], 36.1x."""
    if value is None:
        return NOTHING
    return f"{_three(value)}x" + (f" [{', '.join(map(_three, bounds))}]" if bounds else "")


def _three(value: float) -> str:
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f}"


def conditions(latency: Mapping[str, Any]) -> str:
    """How a latency was measured, with the machine and its load where they were noted."""
    said = [
        f"batch {latency['batch']}, {latency['threads']} threads, {latency['device']}",
        f"{latency['repeats']} repeats after {latency['warmup']} warm-ups",
    ]
    if latency.get("clock") == "cpu":
        said.append("ratios of CPU times")
    if load := latency.get("load"):
        said.append(f"load {load['before']:.1f} to {load['after']:.1f} on {load['cores']} cores")
    return ", ".join([*said, *filter(None, [latency.get("cpu")])])


def yes_no(value: bool | None) -> str:
    """Of a verdict."""
    return NOTHING if value is None else "yes" if value else "no"


def interval(bounds: tuple[float, float], form: str = ".2f") -> str:
    return f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def p_is(p: float) -> str:
    """= 0.065, or < 0.001."""
    return f"= {p_value(p)}" if p >= 0.001 else p_value(p)


def ms(value: float) -> str:
    """Four digits, without an exponent."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def points(share: float) -> str:
    """A signed difference of rates in percentage points; more digits where it would be 0.

    Example:
        >>> points(0.09), points(-0.004), points(0.0)
        ('+9', '-0.4', '0')
    """
    for digits in (0, 1, 2):
        if round(abs(100 * share), digits):
            return f"{100 * share:+.{digits}f}"
    return "0"


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


def warm_words(warm: Mapping[str, Any]) -> str:
    """How many queries begin near the last one's chunk, and what a query costs.

    Example:
        >>> warm_words({"from": 5, "rows": 200, "warm_rows": 190, "calls": 5.25})
        '95.0% of queries from step 5 on; 5.25 network calls a query; latency is of such a query'
    """
    begun = share(warm["warm_rows"] / max(warm["rows"], 1))
    return (
        f"{begun} of queries from step {warm['from']} on; "
        f"{warm['calls']:.4g} network calls a query; latency is of such a query"
    )


def across_words(across: Mapping[str, Any]) -> str:
    """How many queries take values of the query before, and what such a query costs.

    Example:
        >>> across_words({"rows": 8, "reusing_rows": 3, "full_flops": 4, "reusing_flops": 3})
        "37.5% of queries reach back, at 75.0% of a full one's FLOPs; latency is of such a query"
    """
    reaching = share(across["reusing_rows"] / max(across["rows"], 1))
    full, reusing = across["full_flops"], across["reusing_flops"]
    cost = f", at {share(reusing / full)} of a full one's FLOPs" if full else ""
    return f"{reaching} of queries reach back{cost}; latency is of such a query"


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
