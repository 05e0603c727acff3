"""One uncached generation of a model that is not ours, for caches that are fitted on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans.decisions import change_of
from .generation import Generation
from .streams import Block, less, owned


class Measuring(Generation):
    """Everything computed; how the probe and what all blocks add change from step to step."""

    def reset(self) -> None:
        super().reset()
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self.changes: dict[str, list[np.ndarray]] = {branch: [] for branch in self.branches}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """(rows, N) of the probe and of what is added, 0 in step 0; rows of all branches."""
        rows = np.concatenate([np.stack(found, axis=1) for found in self.changes.values()])
        return {"probe": rows[..., 0], "response": rows[..., 1]}

    def _run(
        self, index: int, block: Block, compute: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        if index == 0:
            self._seen = owned(self.streams.into(block, args, kwargs))
            self._probed = _rows(self.probe(block.module, args, kwargs))
        out = super()._run(index, block, compute, args, kwargs)
        if index == self.last:
            added = less(self.streams.after(block, out, args, kwargs), self._seen)[0]
            assert added is not None
            now = self._probed, _rows(added)
            before = self._before.get(self._now, now)
            changes = (change_of(a, b) for a, b in zip(now, before, strict=True))
            found = torch.stack([change / size for change, size in changes], dim=1)
            self.changes[self._now].append(found.cpu().numpy())
            self._before[self._now] = now
        return out


def _rows(values: Tensor) -> Tensor:
    return values.float().reshape(len(values), -1)
