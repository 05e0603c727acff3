"""runner=evaluate: episodes, latency, and what they show."""

from __future__ import annotations

from ..episodes.loop import EpisodeResult, evaluate, query_noise

__all__ = [
    "EpisodeResult",
    "evaluate",
    "query_noise",
]
