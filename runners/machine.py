"""The machine that measures: its CPU, and how busy others keep it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

UNKNOWN = "not recorded"


def cpu() -> str:
    """The name of this machine's CPU, where Linux says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def load() -> float:
    """Mean number of processes that ran or wanted to run in the last minute, this one included."""
    return os.getloadavg()[0]


@cache
def arithmetic() -> str:
    """What decides in which order this machine sums: its CPU, torch's kernels, and the engine's.

    Compiled code gives the same bits with vectors of 8 and of 16 floats; torch's kernels, which the
    engine starts from, and an engine without a compiler, may differ in the last bits from CPU to
    CPU, and an episode may then end otherwise (one seed in 60 did).
    """
    import torch  # a report needs no torch

    from accel.kernels.native import library

    capability = torch.backends.cpu.get_cpu_capability()
    compiled = "compiled engine" if library() is not None else "engine in torch"
    return f"{cpu()}, {capability}, {compiled}"


def machines_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The machines that episodes ran on, as far as they say."""
    return sorted({str(record.get("machine", UNKNOWN)) for record in records})


def warn_of_others(records: Iterable[Mapping[str, Any]], what: str) -> None:
    """Say where episodes that are kept ran on another machine than this one."""
    others = [name for name in machines_of(records) if name != arithmetic()]
    if others:
        log.warning(
            "%s ran on another machine (%s) than this one (%s): the same seed may end otherwise "
            "where their last bits differ",
            what,
            "; ".join(others),
            arithmetic(),
        )
