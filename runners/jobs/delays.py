"""Where the delays of a run come from: a latency, or those that a run recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..episodes.realtime import Delays
from ..store.files import DamagedFileError, read_result
from ..store.names import RESULT
from .settings import UserError, build


@dataclass
class RealtimeConfig:
    """Where a delay comes from; conf/config.yaml says more. `from_` is spelled `from` there.

    `enabled` is None where the other two decide.
    """

    enabled: bool | None = None
    latency_ms: float | None = None
    from_: str | None = None

    def __post_init__(self) -> None:
        if self.latency_ms is not None and not 0 <= self.latency_ms < math.inf:
            raise ValueError(f"realtime.latency_ms must be at least 0, got {self.latency_ms}")
        if self.latency_ms is not None and self.from_ is not None:
            raise ValueError("realtime.latency_ms and realtime.from exclude each other")

    @property
    def active(self) -> bool:
        named = self.latency_ms is not None or self.from_ is not None
        return named if self.enabled is None else self.enabled


def realtime_config(node: Mapping[Any, Any]) -> RealtimeConfig:
    """Typed settings; Python does not take `from` as a name."""
    values = {"from_" if key == "from" else str(key): value for key, value in node.items()}
    config: RealtimeConfig = build(RealtimeConfig, values, "realtime")
    return config


def delay_steps(latency_ms: float, control_hz: float) -> int:
    """The steps that pass before an answer can act."""
    return math.ceil(round(latency_ms / 1000 * control_hz, 9))


def delays_of(config: RealtimeConfig, control_hz: float, own_run: Path) -> Delays | None:
    """The delays that a run is to have; None for none.

    Args:
        config: the settings.
        control_hz: of the task.
        own_run: the folder of the same run without delays, whose latencies are used where the
            settings name none.

    Raises:
        UserError: there are no recorded latencies.
    """
    if not config.active:
        return None
    if config.latency_ms is not None:
        samples: Sequence[float] = [config.latency_ms]
    else:
        samples = _recorded(Path(config.from_) if config.from_ else None, own_run)
    steps = [delay_steps(ms, control_hz) for ms in samples]
    if len(set(steps)) == 1:
        steps = steps[:1]
    p50, p95 = np.percentile(samples, [50, 95])
    latency = f"{p50:.4g} ms" if len(samples) == 1 else f"p50 {p50:.4g} ms, p95 {p95:.4g}"
    shares = [f"{n} steps: {steps.count(n) / len(steps):.0%}" for n in sorted(set(steps))]
    delay = f"{steps[0]} steps" if len(steps) == 1 else ", ".join(shares)
    return Delays(tuple(steps), f"{delay} at {control_hz:g} Hz ({latency})")


def _recorded(named: Path | None, own_run: Path) -> list[float]:
    """The accelerated policy's latencies in a run's result."""
    path = (named or own_run) / RESULT
    try:
        latency = (read_result(path) or {}).get("latency")
    except DamagedFileError as error:
        raise UserError(f"realtime needs the latencies of a run: {error}") from error
    if latency:
        return [float(ms) for ms in latency["samples_ms"]["accelerated"]]
    if named:
        raise UserError(f"realtime.from must be a finished run with latencies, got {named}")
    raise UserError(
        "realtime=true needs realtime.latency_ms, realtime.from, or the same run without it, "
        f"finished and with latencies: {own_run} has none"
    )
