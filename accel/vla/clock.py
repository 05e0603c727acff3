"""How long the parts of a query took: its prefix, and its denoising."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from time import perf_counter_ns
from typing import Any

import torch

PARTS = ("prefix_ms", "denoise_ms")


class Clock:
    """Times of the queries since `clear`.

    Args:
        device: waited for around each part.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clear()

    def clear(self) -> None:
        """No query yet."""
        self.times: dict[str, list[float]] = {part: [] for part in PARTS}
        self._marks: list[int] = []

    def begin(self) -> None:
        """A query begins."""
        self._marks = [self._now()]

    def mark(self) -> None:
        """Its prefix is there."""
        self._marks.append(self._now())

    def end(self) -> None:
        """It has ended."""
        marks = [*self._marks, self._now()]
        for part, a, b in zip(PARTS, marks[:-1], marks[1:], strict=True):
            self.times[part].append((b - a) / 1e6)

    def stats(self) -> Mapping[str, Any]:
        """{part: {last, median}} in ms; None before the first query."""
        return {
            part: {"last": t[-1], "median": median(t)} if t else {"last": None, "median": None}
            for part, t in self.times.items()
        }

    def _now(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter_ns()
