"""Observations with names: what a task shows and a policy sees, said by both in the same words.

An observation is one array, the robot's and the world's numbers (`state`), or a mapping of named
arrays: `state` (D,), `environment_state` (E,), `image.<camera>` (C, H, W). Batches and histories of
observations have axes before those. The functions below work on numpy arrays, on tensors, and on
mappings of either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

STATE, ENVIRONMENT, IMAGE = "state", "environment_state", "image."
NUMBERS, PIXELS = "float32", "uint8"

Arrays: TypeAlias = Any
"""An array or a tensor, or a mapping of names to those."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of an observation.

    Attributes:
        shape: of one step: (D,) numbers, or (C, H, W) of an image.
        dtype: float32; of images uint8, for which floats in [0, 1] stand as well.
    """

    shape: tuple[int, ...]
    dtype: str = NUMBERS

    def __str__(self) -> str:
        if len(self.shape) == 1:
            return f"{self.shape[0]} numbers"
        channels, height, width = self.shape
        return f"{channels} x {height} x {width} pixels"


@dataclass(frozen=True)
class ObservationSpec(Mapping[str, ArraySpec]):
    """The arrays of an observation, in order: {name: ArraySpec}.

    Attributes:
        arrays: by our names.
        control_hz: how many observations a second; None where it is not said.

    Example:
        >>> spec = ObservationSpec.of({"state": 2, "image.top": (3, 96, 96)})
        >>> list(spec), spec.images, str(spec["image.top"])
        (['state', 'image.top'], ['image.top'], '3 x 96 x 96 pixels')
        >>> spec.missing_from(ObservationSpec.of({"state": 3}))
        ['image.top of 3 x 96 x 96 pixels is missing', 'state must be of 2 numbers, got 3 numbers']
    """

    arrays: Mapping[str, ArraySpec] = field(default_factory=dict)
    control_hz: float | None = None

    @classmethod
    def of(
        cls, shapes: Mapping[str, int | Sequence[int]], control_hz: float | None = None
    ) -> ObservationSpec:
        """From {name: its length, or (C, H, W) of an image}."""
        arrays = {}
        for name, shape in shapes.items():
            sizes = (shape,) if isinstance(shape, int) else tuple(shape)
            arrays[name] = ArraySpec(sizes, PIXELS if is_image(name) else NUMBERS)
        return cls(arrays, control_hz)

    def __getitem__(self, name: str) -> ArraySpec:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def single(self) -> bool:
        """Whether an observation is one array, `state`, and may come without its name."""
        return list(self) == [STATE]

    @property
    def images(self) -> list[str]:
        """Names of the images, in order."""
        return [name for name in self if is_image(name)]

    def missing_from(self, other: ObservationSpec) -> list[str]:
        """What a policy that sees this lacks where a task shows `other`; [] where nothing is."""
        found = [f"{name} of {self[name]} is missing" for name in self if name not in other]
        found += [
            f"{name} must be of {self[name]}, got {other[name]}"
            for name in self
            if name in other and other[name] != self[name]
        ]
        found += [f"{name} of {other[name]} is not asked for" for name in other if name not in self]
        rates = self.control_hz, other.control_hz
        if None not in rates and rates[0] != rates[1]:
            found.append(f"it is seen {rates[0]:g} times a second, not {rates[1]:g}")
        return found

    def named(
        self, obs: Mapping[str, Any], ours_of: Callable[[str], str], others: bool = False
    ) -> dict[str, str]:
        """{our name: the name in obs}, in the order of this.

        Args:
            obs: arrays by any names.
            ours_of: a name in obs -> ours, or what is none of ours.
            others: whether obs may hold more than is asked for, which is left out.

        Raises:
            ValueError: one line with what is missing, not asked for, or there twice.

        Example:
            >>> spec = ObservationSpec.of({"state": 2})
            >>> spec.named({"observation.state": 0}, lambda name: name.rpartition(".")[2])
            {'state': 'observation.state'}
        """
        found: dict[str, str] = {}
        wrong = []
        for theirs in obs:
            ours = ours_of(theirs)
            if ours not in self:
                wrong += [] if others else [f"{theirs} is not asked for"]
            elif ours in found:
                wrong.append(f"{found[ours]} and {theirs} are both {ours}")
            else:
                found[ours] = theirs
        wrong = [f"{ours} of {self[ours]} is missing" for ours in self if ours not in found] + wrong
        if wrong:
            raise ValueError(f"obs must hold {', '.join(self)}: {', '.join(wrong)}")
        return {ours: found[ours] for ours in self}

    def differences(self, obs: Arrays) -> list[str]:
        """Where what a world shows at one step is not as said here; [] where it is.

        Images must be uint8; numbers may be of any real type.

        Args:
            obs: an array where this is `single`, else a mapping of arrays.

        Example:
            >>> spec = ObservationSpec.of({"state": 2, "image.top": (3, 96, 96)})
            >>> spec.differences({"state": np.zeros(2), "image.top": np.zeros((96, 96, 3))})
            ['image.top must be uint8 of shape (3, 96, 96), got float64 of shape (96, 96, 3)']
        """
        if self.single == isinstance(obs, Mapping):
            wanted = "an array" if self.single else f"a mapping of {', '.join(self)}"
            return [f"they must be {wanted}, got a {type(obs).__name__}"]
        arrays = {STATE: obs} if self.single else obs
        found = [f"{name} is missing" for name in self if name not in arrays]
        for name, value in arrays.items():
            if name not in self:
                found.append(f"{name} is not among {', '.join(self)}")
                continue
            array, shape = np.asarray(value), self[name].shape
            fits = array.dtype == PIXELS if is_image(name) else array.dtype.kind in "fiu"
            if not fits or array.shape != shape:
                kind = PIXELS if is_image(name) else "numbers"
                got = f"{array.dtype} of shape {array.shape}"
                found.append(f"{name} must be {kind} of shape {shape}, got {got}")
        return found


def is_image(name: str) -> bool:
    return name.startswith(IMAGE)


def each(function: Any, *observations: Arrays) -> Arrays:
    """A function of observations, array by array: a mapping again, or an array where those are."""
    first = observations[0]
    if not isinstance(first, Mapping):
        return function(*observations)
    return {name: function(*(o[name] for o in observations)) for name in first}


def n_rows(obs: Arrays) -> int:
    """The length of the first axis."""
    if isinstance(obs, Mapping):
        return len(next(iter(obs.values()), ()))
    return len(obs)


def take(obs: Arrays, rows: Any) -> Arrays:
    """Some rows: an index, a slice or a list of numbers."""
    return each(lambda array: array[rows], obs)


def as_seen(obs: Arrays) -> Arrays:
    """Observations of numpy as policies see them: numbers float32, images uint8."""
    return each(lambda array: array if array.dtype == PIXELS else array.astype(np.float32), obs)


def n_bytes(obs: Arrays) -> int:
    """Of all arrays of numpy together."""
    arrays = obs.values() if isinstance(obs, Mapping) else [obs]
    return sum(array.nbytes for array in arrays)


def stacked(observations: Sequence[Arrays]) -> Arrays:
    """Observations of numpy along a new first axis."""
    return each(lambda *arrays: np.stack(arrays), *observations)


def joined(observations: Sequence[Arrays]) -> Arrays:
    """Batches of observations of numpy, one after another."""
    return each(lambda *arrays: np.concatenate(arrays), *observations)
