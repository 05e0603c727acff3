"""What a run is: hashes of everything that changes one of its episodes, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from accel import CACHES, integers_of
from accel.caches import settings_of as settings_of_cache
from accel.quant import QuantConfig
from accel.quant.selection import settings_of

from ..episodes.realtime import Delays
from .chosen import Chosen
from .settings import digest


@dataclass(frozen=True)
class Identity:
    """Of a run and of its baseline.

    Attributes:
        method: what of the cache, of its calibration and of a quantisation's statistics counts.
        fingerprint: of the run.
        baseline: fingerprint of the unaccelerated run under the same conditions.
    """

    method: Mapping[str, Any]
    fingerprint: str
    baseline: str


def identify(chosen: Chosen, of_runner: Mapping[str, Any], delays: Delays | None) -> Identity:
    """The identity of a checked choice.

    Args:
        chosen: what fits together.
        of_runner: what of the runner's settings changes an episode.
        delays: of its queries.
    """
    conditions = {
        **of_runner,
        **chosen.recipe.depends_on,
        "quant": _quant(chosen),
        "engine": asdict(chosen.engine),
    }
    method = _method(chosen)
    delayed = {"delays": delays.steps} if delays else {}
    warm = {"warm": chosen.warm.settings()} if chosen.warm else {}
    unaccelerated = {
        "policy": chosen.plain.fingerprint() if chosen.plain else None,
        "quant": {"name": "none"},
        "cache": {"name": "none"},
        "engine": asdict(chosen.plain_engine),
    }
    return Identity(
        method,
        digest({**conditions, **method, **delayed, **warm}),
        digest({**conditions, **unaccelerated}),
    )


def _quant(chosen: Chosen) -> dict[str, Any]:
    """Of a plug-in's quantisation, whatever it has."""
    known = isinstance(chosen.quant, QuantConfig)
    return settings_of(chosen.quant, chosen.policy) if known else asdict(chosen.quant)


def _method(chosen: Chosen) -> dict[str, Any]:
    policy, cache, recipe = chosen.policy, chosen.cache, chosen.recipe
    if policy is None:
        return {"cache": settings_of_cache(cache)}
    counts: dict[str, Any] = {"cache": CACHES[cache.name].identity(cache, policy)}
    if chosen.quantizes:
        counts["statistics"] = recipe.statistics_identity()
        counts["integers"] = integers_of(chosen.engine, policy, chosen.quant)
    if chosen.uses_calibration:
        counts["calibration"] = recipe.identity(CACHES[cache.name].needs_of(cache))
        if recipe.choice.path is not None and chosen.calibrates:
            counts["queries"] = recipe.key
    return counts
