"""What an episode's encoder remembers from query to query: the newest frames and their features.

A frame is one step of an observation, all of its arrays. At the reset of an episode the first one
stands for those before it, and where a query comes each step all frames but one were in the query
before: such frames are encoded once. Frames are encoded one by one, never in batches, so the bits
of their features depend neither on the other episodes of a batch nor on what was remembered.
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

    def shows(self, arrays: Mapping[str, Tensor], encoder: object) -> bool:
        return self.encoder is encoder and all(
            same(self.arrays[name], array) for name, array in arrays.items()
        )


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

    A frame that several rows show, as those do that only fill a batch, is encoded once.

    Args:
        memories: one dict a row, which is changed: its newest frames are those of this query.
        arrays: (B, To, ...) by name.
        encode: arrays (1, 1, ...) -> (1, 1, n).
        encoder: whose features they are.

    Returns:
        (B, To, n)
    """
    rows = len(next(iter(arrays.values())))
    if len(memories) != rows:
        raise ValueError(f"memory must hold one dict per row ({rows}), got {len(memories)}")
    encoded = []
    fresh: list[Frame] = []  # of this query
    for row, memory in enumerate(memories):
        known, newest = memory.get(KEY, ()), []
        for step in range(next(iter(arrays.values())).shape[1]):
            frame = {n: a[row : row + 1, step : step + 1] for n, a in arrays.items()}
            found = _found(frame, [*known, *fresh], encoder)
            if found is None:
                found = _encoded(frame, encode, encoder)
                fresh.append(found)
            newest.append(found)
        memory[KEY] = newest
        encoded.append(torch.cat([frame.features for frame in newest], dim=1))
    return torch.cat(encoded)


def _found(frame: Mapping[str, Tensor], known: Iterable[Frame], encoder: object) -> Frame | None:
    return next((kept for kept in known if kept.shows(frame, encoder)), None)


def _encoded(
    frame: Mapping[str, Tensor], encode: Callable[[Mapping[str, Tensor]], Tensor], encoder: object
) -> Frame:
    return Frame({name: array.clone() for name, array in frame.items()}, encode(frame), encoder)
