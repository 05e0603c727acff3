"""Keys and values of a prefix, which are the same in every step: computed once a query."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Once:
    """What one projection made of its last input, given again for an equal input.

    Cross-attention projects the prefix in every step. A projection of the actions has another input
    in every step, which shows at its second call: it is then left alone until the next query.
    """

    def __init__(self) -> None:
        self.saved = 0
        self.clear()

    def clear(self) -> None:
        """A new query."""
        self._seen: Tensor | None = None
        self._made: Tensor | None = None
        self._changes = False

    @property
    def nbytes(self) -> int:
        return sum(0 if t is None else t.nbytes for t in (self._seen, self._made))

    def __call__(self, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """(B, tokens, width) -> as `compute` gives it, to the bit."""
        if self._changes:
            return compute(x)
        if self._seen is not None and self._made is not None:
            if self._seen.dtype == x.dtype and torch.equal(self._seen, x):
                self.saved += 1
                return self._made.clone()
            self._seen = self._made = None
            self._changes = True
            return compute(x)
        made = compute(x)
        self._seen, self._made = x.clone(), made.clone()
        return made
