"""How much of a new chunk is held to the last one, position by position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

JOINS = ("none", "hard", "soft")


def weights(join: str, place: Tensor, n: int, shift: int, committed: int) -> Tensor | None:
    """(T,) from 0, free, to 1, held; None where nothing is.

    The actions that will be executed before the new chunk arrives are decided; what follows them is
    a wish. Weights of "soft" are those of real-time chunking (Black, Galliker and Levine 2025,
    arXiv 2506.07339, eq. 5): they fall from 1 to 0 over the rest of what both chunks know. There
    they weigh a guidance; here they weigh a replacement.

    Args:
        join: none, hard or soft.
        place: (T,) of each position in the last chunk, below 0 where it begins later.
        n: actions of the last chunk.
        shift: the place of the first action that is to come.
        committed: actions from there on that are executed whatever the new chunk says.

    Example:
        >>> weights("hard", torch.arange(6) + 2, 6, 2, 1).tolist()
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        >>> [round(w, 2) for w in weights("soft", torch.arange(6) + 2, 6, 2, 1).tolist()]
        [1.0, 0.49, 0.19, 0.04, 0.0, 0.0]
    """
    if join == "none":
        return None
    ahead = place - shift  # 0: the first action that is to come
    decided = (ahead < committed) & (place >= 0) & (place < n)
    held = decided.float()
    if join == "soft":
        overlap = n - shift
        share = (overlap - ahead).float() / max(overlap - committed + 1, 1)
        falling = share * (share.exp() - 1) / (math.e - 1)
        held = torch.where((ahead >= committed) & (place < n), falling, held)
    return held
