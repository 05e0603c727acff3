"""The machine that measures: its CPU, and how busy others keep it."""

from __future__ import annotations

import os
from pathlib import Path


def cpu() -> str:
    """The name of this machine's CPU, where Linux says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def load() -> float:
    """Mean number of processes that ran or wanted to run in the last minute, this one included."""
    return os.getloadavg()[0]
