"""Uncached generations of a model that is not ours, for caches that are fitted on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans.decisions import extent
from .generation import Generation
from .pieces import Recorder
from .streams import Block
from .values import owned


class Measuring(Generation):
    """Everything computed; how the probe and what all blocks add change from step to step."""

    def reset(self) -> None:
        if not hasattr(self, "_whole"):
            self._whole: list[np.ndarray] = []
        super().reset()
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._changes: dict[str, list[np.ndarray]] = {name: [] for name in self.calls.branches}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """(rows, N) of the probe and of what is added, 0 in step 0; rows of all branches.

        Of branches that ran in all steps: guidance may stop before.

        Raises:
            RuntimeError: there are none.
        """
        if not self._whole:
            ran = {name: len(found) for name, found in self._changes.items()}
            raise RuntimeError(
                f"run() must run a whole generation of {self.plan.n_steps} steps, got "
                f"{', '.join(f'{n} of {name}' for name, n in ran.items())}"
            )
        rows = np.concatenate(self._whole)
        return {"probe": rows[..., 0], "response": rows[..., 1]}

    def _run(
        self, index: int, block: Block, compute: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        if len(self.calls.ran) == 1:
            seen = owned(block.streams.into(block, args, kwargs))
            probed = seen[0] if self.probe is None else self.probe(block.module, args, kwargs)
            assert probed is not None
            self._probed = probed.float().reshape(len(probed), -1)
            self._recordings = []
            self._recorder = self._record(index, len(self.blocks) + 1, [], {})
            self._recorder.kind = "delta"
        out = super()._run(index, block, compute, args, kwargs)
        if index == self.last:
            self._recorder.end()
            self._note(self._recorder)
        return out

    def _note(self, recorder: Recorder) -> None:
        branch, rows = self.calls.branch, len(self._probed)
        added = [piece.values[0] for piece in recorder.pieces if piece.values[0] is not None]
        if not added or any(len(value) != rows for value in added):
            raise RuntimeError(
                f"the probe has {rows} rows, what blocks add "
                f"{sorted({len(value) for value in added})}: teacache needs the batch as the first "
                "dimension of every block's first stream"
            )
        now = self._probed, torch.cat([v.float().reshape(rows, -1) for v in added], dim=1)
        before = self._before.get(branch, now)
        for new, old in zip(now, before, strict=True):
            if new.shape != old.shape:
                raise RuntimeError(
                    f"step {self._step} of branch {branch} has {tuple(new.shape)} (rows, values), "
                    f"the one before {tuple(old.shape)}: calibrate with one batch and length"
                )
        changes = ((extent(a - b), extent(b)) for a, b in zip(now, before, strict=True))
        found = torch.stack([change / size for change, size in changes], dim=1)
        noted = self._changes[branch]
        noted.append(found.cpu().numpy())
        self._before[branch] = now
        if len(noted) == self.plan.n_steps:
            self._whole.append(np.stack(noted, axis=1))
