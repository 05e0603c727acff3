"""Operations of a network's call, cut into what each thread does, and what observations say."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.native import helped, portions, together
from ..kernels.operations import (
    CONVOLVE,
    Operation,
    Place,
    Rows,
    Section,
    convolve,
    moved,
)
from ..kernels.packed import Packed


class Cutter:
    """For one batch size.

    Args:
        packed: holds the weights.
        batch: rows.
        operations: all that will be cut.
        floats: that any of them but a linear layer needs for its scratch.
    """

    def __init__(
        self, packed: Packed, batch: int, operations: Iterable[Operation], floats: int
    ) -> None:
        self.loaded, self.batch = packed.loaded, batch
        self.rows = portions(batch, min(torch.get_num_threads(), batch))
        linears = [o for o in operations if o.kind == CONVOLVE]
        self.scratch = []
        for part in self.rows:
            n = part.stop - part.start
            needs = (self._floats(o, n * o.length) for o in linears)
            self.scratch.append(torch.zeros(max(floats, *needs, 0)))

    def _floats(self, operation: Operation, rows: int) -> int:
        pointer = ctypes.byref(operation.linear)
        return int(self.loaded.linear_floats(pointer, ctypes.c_int64(rows)))

    def cut(self, operations: list[Operation]) -> list[Section]:
        """One section for each part of the rows."""
        return [
            Section(self.loaded, operations, rows, scratch, helped(self.batch))
            for rows, scratch in zip(self.rows, self.scratch, strict=True)
        ]


def run(sections: list[Section], time: Tensor, seen: Tensor) -> None:
    """Run them under what the step says and what each row has seen, see `Section`."""
    together([partial(section, time, seen) for section in sections], len(sections))


class Seeing:
    """What observations say to all blocks: activated, and through one linear layer, once a query.

    Args:
        packed: holds the layer.
        batch: rows.
        weight: (n_said, n_seen) of the layer, which has no bias.
        activation: a kind of operation, and `more` of it.

    Attributes:
        observed: of the last query, activated.
        said: (B, n_said), which operations read as `seen`.
    """

    def __init__(
        self, packed: Packed, batch: int, weight: Tensor, activation: int, **more: Any
    ) -> None:
        n_said, n_seen = weight.shape
        self.packed, self.said = packed, torch.zeros(batch, n_said)
        rows = self.observed = Rows.zeros(batch, 1, n_seen, 0, packed.panel)
        to = Place(self.said.data_ptr(), n_said, n_said)
        linear = packed.linear(F.pad(weight, (0, rows.ld - n_seen)), torch.zeros(n_said))
        operations = [
            moved(activation, rows, rows.place(), **more),
            convolve(linear, rows.place(), to, 1),
        ]
        self.sections = Cutter(packed, batch, operations, 0).cut(operations)

    def __call__(self, cond: Tensor) -> None:
        """Observe (B, n_obs_steps, cond_dim), normalised."""
        self.observed.view.copy_(cond.flatten(1)[:, None])
        run(self.sections, self.said, self.said)  # neither operation reads what is told
