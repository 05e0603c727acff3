"""What of a dataset makes an observation, and what is said where it is not there."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from skipstep.observations import STATE, ArraySpec, ObservationSpec

from .episode import DatasetError
from .pictures import Cache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What is read of a dataset.

    Attributes:
        keys: fields that make `state`, in this order; None: the usual ones.
        spec: the arrays of an observation; None: `state` alone, of any length and rate.
        cache: of images.
    """

    keys: tuple[str, ...] | None = None
    spec: ObservationSpec | None = None
    cache: Cache = field(default_factory=Cache)

    @property
    def arrays(self) -> dict[str, ArraySpec]:
        """Those of an observation besides `state`."""
        return {} if self.spec is None else {n: a for n, a in self.spec.items() if n != STATE}

    @property
    def numbers(self) -> list[str]:
        """Names of the arrays of numbers among them."""
        return [name for name, array in self.arrays.items() if len(array.shape) == 1]

    @property
    def images(self) -> dict[str, ArraySpec]:
        """Images among them."""
        return {name: a for name, a in self.arrays.items() if name not in self.numbers}

    def state_keys(self, usual: Iterable[str]) -> tuple[str, ...]:
        """The fields of `state`, of which there are none where an observation has no `state`."""
        if self.spec is not None and STATE not in self.spec:
            return ()
        return tuple(self.keys or usual)

    def check_rate(self, where: str, hz: object) -> None:
        """Compare how often a dataset has an observation.

        Raises:
            DatasetError: it is not as often as the task has one.
        """
        wanted = None if self.spec is None else self.spec.control_hz
        if wanted is not None and hz != wanted:
            raise DatasetError(f"{where} must be {wanted:g} as the task's control rate, got {hz}")


def missing(where: str, key: str, name: str, array: ArraySpec, held: Iterable[str]) -> DatasetError:
    """An array of the task that a dataset does not have.

    Args:
        where: the dataset, or a part of it.
        key: that it would have there.
        name: of ours.
        array: what it must be.
        held: keys that are there.
    """
    there = ", ".join(held) or "nothing"
    return DatasetError(f"{where}: no {key} in it for {name} of {array}, it holds {there}")


def warn_of_others(where: str, keys: Iterable[str], images: Iterable[str]) -> None:
    """Say that cameras of a dataset are none of the task's.

    Args:
        where: the dataset.
        keys: of those cameras in it.
        images: the task's.
    """
    for key in sorted(keys):
        log.warning(
            "%s: %s is a camera that the task does not have (it has %s): it is not read",
            where,
            key,
            ", ".join(images),
        )
