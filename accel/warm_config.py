"""How a query uses the last one: settings, and what they do not go with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .joining import JOINS
from .protocol import Accelerable

FILLS = ("repeat", "noise")


@dataclass(frozen=True)
class WarmConfig:
    """How a query uses the last one.

    start: index of the first step of the sampler's list that a warm query computes; 0: every query
        is a full one.
    fill: what follows the last chunk's end: its last action (repeat), or pure noise.
    jump: root mean square change of the newest normalised observation since the last query, above
        which a query is a full one; None: never.
    join: what of a chunk is held to the last one while it is denoised, see `joining.weights`:
        none, the committed actions (hard), or less and less of those after them too (soft).
    """

    name: str = "chunk"
    start: int = 1
    fill: str = "repeat"
    jump: float | None = None
    join: str = "none"

    def __post_init__(self) -> None:
        if isinstance(self.start, bool) or not isinstance(self.start, int) or self.start < 0:
            raise ValueError(f"warm.from must be a whole number of at least 0, got {self.start}")
        if self.fill not in FILLS:
            raise ValueError(f"warm.fill must be one of {', '.join(FILLS)}, got {self.fill!r}")
        if self.jump is not None and not self.jump > 0:
            raise ValueError(f"warm.jump must be null or above 0, got {self.jump}")
        if self.join not in JOINS:
            raise ValueError(f"warm.join must be one of {', '.join(JOINS)}, got {self.join!r}")

    @property
    def active(self) -> bool:
        """Whether a query depends on the last one."""
        return self.start > 0 or self.join != "none"

    def settings(self) -> dict[str, Any]:
        """All of them; `join` only where something is held, as before it was there."""
        found = asdict(self)
        return found if self.join != "none" else {k: v for k, v in found.items() if k != "join"}


@dataclass(frozen=True)
class NoWarmConfig:
    """Every query begins with pure noise."""

    name: str = "none"
    start: int = 0
    active: bool = False


WARM: dict[str, type] = {"none": NoWarmConfig, "chunk": WarmConfig}


def check_warm(policy: Accelerable, config: WarmConfig, cache: Any) -> None:
    """Refuse a warm start beside what does not go with it.

    Raises:
        ValueError: a cache, or a sampler without such a step.
    """
    if cache is not None and (name := getattr(cache, "name", "a plan")) != "none":
        raise ValueError(f"warm={config.name} needs cache=none, got cache={name}")
    if config.start >= policy.n_inference_steps:
        raise ValueError(
            f"warm.from must be below {policy.n_inference_steps}, the steps of the sampler, "
            f"got {config.start}"
        )
    policy.from_step(config.start)
