"""runner=evaluate: episodes, latency, and what they show."""

from __future__ import annotations

from ..episodes.episode import EpisodeResult
from ..episodes.loop import evaluate, query_noise

__all__ = [
    "EpisodeResult",
    "evaluate",
    "query_noise",
]
