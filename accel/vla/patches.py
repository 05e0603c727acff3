"""Functions of our own in the place of a live object's, put there and taken off as they were."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

log = logging.getLogger(__name__)

ABSENT = object()


class Patches:
    """Attributes of instances that are replaced together; no class is touched."""

    def __init__(self) -> None:
        self._put: list[tuple[Any, str, Any, Any]] = []

    def put(self, owner: Any, name: str, ours: Callable[..., Any]) -> None:
        """Replace `owner.name` by `ours`, called with what was there before its arguments."""
        before = vars(owner).get(name, ABSENT)
        made = partial(ours, getattr(owner, name))
        made.__wrapped__ = getattr(owner, name)  # type: ignore[attr-defined]  # its signature
        object.__setattr__(owner, name, made)
        self._put.append((owner, name, before, made))

    def take(self) -> None:
        """Put everything back, the last first.

        Where another tool was put around one of ours since, that stays, and ours passes calls on.
        """
        while self._put:
            owner, name, before, made = self._put.pop()
            if vars(owner).get(name) is not made:
                log.warning(
                    "%s.%s was replaced by another tool after it was accelerated: that stays",
                    *(type(owner).__name__, name),
                )
            elif before is ABSENT:
                del vars(owner)[name]
            else:
                vars(owner)[name] = before
