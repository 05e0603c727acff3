"""Operations of a network's call, cut into what each thread does with its rows of the batch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from ..kernels.native import helped, portions, together
from ..kernels.operations import CONVOLVE, Operation, Section
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
