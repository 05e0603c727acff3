"""What an episode's encoder remembers from query to query: the newest frames and their features.

A frame is one step of an observation, all of its arrays. At the reset of an episode the first one
stands for those before it, and where a query comes each step all frames but one were in the query
before: such frames are encoded once. The new frames of an episode's query are encoded together, and
never with those of another episode, so the bits of their features do not depend on the other
episodes of a batch. (Together, since torch's convolutions of one small image are slow.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KEY = "frames"  # in an episode's memory


@dataclass(frozen=True)
class Frame:
    """The arrays of one step as they came, and what they were encoded to.

    Attributes:
        arrays: (1, 1, ...) by name.
        features: (1, 1, n).
        encoder: what encoded them; another one's features are not used.
    """

    arrays: Mapping[str, Tensor]
    features: Tensor
    encoder: object


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two arrays are the same bits of the same kind."""
    kinds = ((array.dtype, array.device, array.shape) for array in (ours, theirs))
    return next(kinds) == next(kinds) and torch.equal(ours, theirs)


def remembered(
    memories: Sequence[dict[str, Any]],
    arrays: Mapping[str, Tensor],
    encode: Callable[[Mapping[str, Tensor]], Tensor],
    encoder: object,
) -> Tensor:
    """Encodes what no memory holds, and puts the frames of this query in their place.

    Args:
        memories: one dict a row, which is changed: its newest frames are those of this query.
        arrays: (B, To, ...) by name.
        encode: arrays (1, k, ...) -> (1, k, n).
        encoder: whose features they are.

    Returns:
        (B, To, n)
    """
    rows = len(next(iter(arrays.values())))
    if len(memories) != rows:
        raise ValueError(f"memory must hold one dict per row ({rows}), got {len(memories)}")
    encoded = []
    for row, memory in enumerate(memories):
        seen = [
            {name: array[row : row + 1, step : step + 1] for name, array in arrays.items()}
            for step in range(next(iter(arrays.values())).shape[1])
        ]
        memory[KEY] = newest = _frames(seen, memory.get(KEY, ()), encode, encoder)
        encoded.append(torch.cat([frame.features for frame in newest], dim=1))
    return torch.cat(encoded)


def _frames(
    seen: Sequence[Mapping[str, Tensor]],
    known: Iterable[Frame],
    encode: Callable[[Mapping[str, Tensor]], Tensor],
    encoder: object,
) -> list[Frame]:
    """The frames of one episode's query, those that are new encoded together, each once."""
    kept = [frame for frame in known if frame.encoder is encoder]
    new: list[Mapping[str, Tensor]] = []
    for arrays in seen:
        if not any(shows(arrays, other) for other in (*(frame.arrays for frame in kept), *new)):
            new.append({name: array.clone() for name, array in arrays.items()})
    if new:
        together = {name: torch.cat([arrays[name] for arrays in new], dim=1) for name in new[0]}
        features = torch.split(encode(together), 1, dim=1)
        kept += [Frame(a, f, encoder) for a, f in zip(new, features, strict=True)]
    return [next(f for f in kept if shows(arrays, f.arrays)) for arrays in seen]


def shows(arrays: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether two frames are the same, see `same`."""
    return all(same(others[name], array) for name, array in arrays.items())
