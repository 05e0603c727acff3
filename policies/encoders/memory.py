"""What an episode's encoder remembers from query to query: the newest frames and their features.

A frame is one step of an observation, all of its arrays. At the reset of an episode the first one
stands for those before it, and where a query comes each step all frames but one were in the query
before: such frames are encoded once. The new frames of an episode's query are encoded together, and
never with those of another episode, so the bits of their features do not depend on the other
episodes of a batch. (Together, since torch's convolutions of one small image are slow.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Arrays = Mapping[str, Tensor]
KEY = "frames"  # in an episode's memory


@dataclass(frozen=True)
class Frame:
    """The arrays of one step as they came, and what they were encoded to.

    Attributes:
        arrays: (1, 1, ...) by name.
        features: (1, 1, n).
        encoder: what encoded them; another one's features are not used.
    """

    arrays: Arrays
    features: Tensor
    encoder: object


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two arrays are the same bits of the same kind; NaN is the same as itself."""
    kinds = ((array.dtype, array.device, array.shape) for array in (ours, theirs))
    if next(kinds) != next(kinds):
        return False
    if not ours.is_floating_point():
        return torch.equal(ours, theirs)
    ours, theirs = (array.contiguous().view(torch.uint8) for array in (ours, theirs))
    return torch.equal(ours, theirs)


def remembered(
    memories: Sequence[dict[str, Any]],
    arrays: Arrays,
    encode: Callable[[Arrays], Tensor],
    encoder: object,
) -> Tensor:
    """Encodes what no memory holds, and puts the frames of this query in their place.

    Rows that show the same new frames, as those do that only fill a batch, are encoded once.

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
    fresh: list[list[Frame]] = []  # of the rows of this query, those that are new
    for row, memory in enumerate(memories):
        seen = [
            {name: array[row : row + 1, step : step + 1] for name, array in arrays.items()}
            for step in range(next(iter(arrays.values())).shape[1])
        ]
        known = [frame for frame in memory.get(KEY, ()) if frame.encoder is encoder]
        new = _distinct(seen, known)
        made = next((frames for frames in fresh if _are(frames, new)), None)
        if made is None:
            made = _encoded(new, encode, encoder)
            fresh.append(made)
        memory[KEY] = newest = [
            next(frame for frame in (*known, *made) if shows(arrays, frame.arrays))
            for arrays in seen
        ]
        encoded.append(torch.cat([frame.features for frame in newest], dim=1))
    return torch.cat(encoded)


def _distinct(seen: Sequence[Arrays], known: Sequence[Frame]) -> list[Arrays]:
    """Frames of one query that are not known, each once; copies, whose memory nobody else has."""
    new: list[Arrays] = []
    for arrays in seen:
        if not any(shows(arrays, other) for other in (*(frame.arrays for frame in known), *new)):
            new.append({name: array.clone() for name, array in arrays.items()})
    return new


def _are(frames: Sequence[Frame], new: Sequence[Arrays]) -> bool:
    return len(frames) == len(new) and all(
        shows(arrays, frame.arrays) for arrays, frame in zip(new, frames, strict=True)
    )


def _encoded(
    new: Sequence[Arrays], encode: Callable[[Arrays], Tensor], encoder: object
) -> list[Frame]:
    """New frames of one query, encoded together."""
    if not new:
        return []
    together = {name: torch.cat([arrays[name] for arrays in new], dim=1) for name in new[0]}
    features = torch.split(encode(together), 1, dim=1)
    return [Frame(arrays, f, encoder) for arrays, f in zip(new, features, strict=True)]


def shows(arrays: Arrays, others: Arrays) -> bool:
    """Whether two frames are the same, see `same`."""
    return all(same(others[name], array) for name, array in arrays.items())
