"""The stages of a query of policies that see images: encoding once, denoising many times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..formatting import NOTHING, ms, share
from ..studies.comparisons import Arm
from .charts import named
from .tables import Table


def table(arms: Sequence[Arm]) -> Table | None:
    """Latency and FLOPs of both stages; None where no arm encodes images."""
    rows = [(named(arm), _cells(arm)) for arm in arms if arm.flops.encode or _stages(arm)]
    if not rows:
        return None
    header = ["arm", "encode p50, ms", "denoise p50, ms", "plain encode", "plain denoise"]
    header += ["encode, GFLOP", "denoise, GFLOP", "encode, of plain FLOPs"]
    return Table(
        header,
        rows,
        "A query encodes what it sees once and denoises many times; no cache makes the first "
        "cheaper. Each stage in calls of its own, batch 1, in the same turns as the whole query. "
        "FLOPs of one row; those of the denoising as run by the engine. Shares of FLOPs in the "
        "table above count the encoding in both.",
    )


def _stages(arm: Arm) -> dict[str, tuple[float, float]]:
    return arm.latency.stages_ms if arm.latency else {}


def _cells(arm: Arm) -> list[str]:
    stages, flops = _stages(arm), arm.flops
    times = [ms(both[i]) for i in range(2) for both in stages.values()] or [NOTHING] * 4
    counted = [flops.encode, flops.query]
    plain = (flops.encode or 0) + flops.plain if flops.plain else None
    of = flops.encode / plain if flops.encode and plain else None
    return [*times, *(NOTHING if n is None else f"{n / 1e9:.3f}" for n in counted), share(of)]


def columns(arm: Arm) -> dict[str, Any]:
    """Of arms.csv, where an arm encodes images; what it has not got is None."""
    stages = _stages(arm)
    found: dict[str, Any] = {}
    for name in ("encode", "denoise"):
        fast, plain = stages.get(name, (None, None))
        found |= {f"{name}_p50_ms": fast, f"plain_{name}_p50_ms": plain}
    return {**found, "encode_flops": arm.flops.encode}
