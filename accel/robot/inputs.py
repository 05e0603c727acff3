"""What a robot's program has in its hands, as policies take it: float32 tensors with rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipstep.observations import IMAGE, STATE, ObservationSpec, is_image

PREFIXES = {"observation.images.": IMAGE, "observation.image": "image", "observation.": ""}
"""LeRobot's names of observations -> ours, for policies that have no names of their own."""


@dataclass(frozen=True)
class Batch:
    """Observations as tensors (B, ...), and how they came.

    Attributes:
        arrays: by our names.
        one_row: they came without the axis of rows, and actions go back without it.
        numpy: they came as arrays of numpy, and actions go back as such.
    """

    arrays: dict[str, Tensor]
    one_row: bool
    numpy: bool

    @property
    def n_rows(self) -> int:
        return len(next(iter(self.arrays.values())))

    def observation(self, spec: ObservationSpec) -> Any:
        """As `encode` takes it."""
        return self.arrays[STATE] if spec.single else self.arrays

    def returned(self, actions: Tensor) -> Any:
        """Actions (B, ...) as the observations came."""
        actions = actions[0] if self.one_row else actions
        return actions.cpu().numpy() if self.numpy else actions


def read(
    obs: Any,
    spec: ObservationSpec,
    aliases: Mapping[str, str],
    n_steps: int | None,
    others: bool = False,
) -> Batch:
    """Check observations and make tensors of them.

    Args:
        obs: an array of numpy or torch, of any real type, or a mapping of such arrays by our names,
            the checkpoint's or LeRobot's; each (n_steps, ...) of one row or (B, n_steps, ...).
        spec: the arrays that are expected.
        aliases: the checkpoint's names -> ours.
        n_steps: of each array; None: one step, without an axis for it.
        others: whether a mapping may hold more than is asked for, which is left out.

    Raises:
        ValueError: something is missing, not asked for, of another shape or not finite; says which,
            and where. TypeError: what is neither an array of numpy nor a tensor.

    Example:
        >>> spec = ObservationSpec.of({"state": 3})
        >>> batch = read(np.zeros((2, 3)), spec, {}, n_steps=2)
        >>> tuple(batch.arrays["state"].shape), batch.one_row, batch.numpy
        ((1, 2, 3), True, True)
    """
    named = _named(obs, spec, aliases, others)
    arrays, one_row, numpy = {}, set(), set()
    for name, (said, value) in named.items():
        shape = spec[name].shape if n_steps is None else (n_steps, *spec[name].shape)
        array = _tensor(said, value, is_image(name))
        one_row.add(_is_one_row(said, array, shape, n_steps))
        numpy.add(not isinstance(value, Tensor))
        arrays[name] = array[None] if array.ndim == len(shape) else array
        _check_finite(said, array)
    if len(one_row) > 1:
        raise ValueError(f"{', '.join(named)} must all have an axis of rows, or none of them")
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{n} of {name}" for name, n in rows.items())
        raise ValueError(f"an observation must have as many rows in each array, got {counts}")
    return Batch(arrays, one_row == {True}, numpy == {True})


def _named(
    obs: Any, spec: ObservationSpec, aliases: Mapping[str, str], others: bool
) -> dict[str, tuple[str, Any]]:
    """{our name: (what it is called there, the array)}, in the order of the spec."""
    if not isinstance(obs, Mapping):
        if not spec.single:
            raise ValueError(f"obs must be a mapping with {', '.join(spec)}, got a single array")
        return {STATE: ("obs", obs)}
    names = spec.named(obs, lambda theirs: _ours(str(theirs), spec, aliases), others)
    return {ours: (theirs, obs[theirs]) for ours, theirs in names.items()}


def _ours(theirs: str, spec: ObservationSpec, aliases: Mapping[str, str]) -> str:
    name = aliases.get(theirs, theirs)
    if name in spec:
        return name
    for prefix, short in PREFIXES.items():
        if theirs.startswith(prefix) and short + theirs[len(prefix) :] in spec:
            return short + theirs[len(prefix) :]
    return name


def _tensor(name: str, value: Any, image: bool) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiu":
            raise TypeError(f"{name} must hold numbers, got {value.dtype}")
        value = torch.from_numpy(np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="))))
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be an array of numpy or a tensor, got {type(value).__name__}")
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must hold numbers, got {value.dtype}")
    array: Tensor = value.detach()
    return array if image and array.dtype == torch.uint8 else array.to(torch.float32)


def _is_one_row(name: str, array: Tensor, shape: tuple[int, ...], n_steps: int | None) -> bool:
    got = tuple(array.shape)
    if got[-len(shape) :] == shape and len(got) <= len(shape) + 1:
        return len(got) == len(shape)
    one = ", ".join(map(str, shape))
    words = f"{name} must have shape ({one}{',' * (len(shape) == 1)}) or (B, {one}), got {got}"
    if n_steps is not None and got == shape[1:]:
        words += f": the last {n_steps} observations, which select_action keeps for you"
    raise ValueError(words)


def _check_finite(name: str, array: Tensor) -> None:
    if not array.is_floating_point() or bool(array.isfinite().all()):
        return
    wrong = (~array.isfinite()).nonzero()
    first = tuple(wrong[0].tolist())
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    place = ", ".join(map(str, first))
    raise ValueError(f"{name}[{place}] must be finite, got {float(array[first])}{more}")
