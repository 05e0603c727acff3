"""Queries that take values of the query before, in the reference engine, row by row.

What is taken belongs to the episode: it is in the memory of its row, which is empty at a reset. A
row that has none there, or too old ones, is computed in full, whatever its neighbours do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..plans.across import BEFORE, OWN, Across
from ..plans.plan import CachePlan
from ..protocol import Compute
from .sessions import Session

KEY = "across"  # in an episode's memory


@dataclass(frozen=True)
class Carried:
    """What an episode's memory keeps of its last query.

    Attributes:
        plan: digest of the plan whose cells they are.
        age: queries since all of them were computed, 1 after that query.
        values: (taken cells, tokens, width), in the order of steps and, within one, of sites.
    """

    plan: str
    age: int
    values: Tensor


class CarryingSession(Session):
    """The cache of one query that takes values of the query before where its rows have them.

    Args:
        plan, bias, live: as of `Session`.
        across: of the plan.
        digest: of the plan.
        memory: one dict a row; None: every row is computed in full, and nothing is kept.
    """

    def __init__(
        self,
        plan: CachePlan,
        across: Across,
        digest: str,
        bias: Tensor | None = None,
        live: int = 1,
        memory: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(plan, bias, live)
        self.computed = self.computed.astype(np.float64)  # shares of rows
        self.across, self.digest, self.memory = across, digest, memory
        cells = np.argwhere(across.taken).tolist()
        self.place = {(step, site): n for n, (step, site) in enumerate(cells)}
        self.held: list[Tensor] = []
        self.ages = [self._age(row) for row in memory or ()]
        self.reusing = torch.tensor([age > 0 for age in self.ages], dtype=torch.bool)
        self.before = self._before(memory or ())

    def _age(self, row: dict[str, Any]) -> int:
        """Queries since the row's last full one; 0: this one is."""
        last: Carried | None = row.get(KEY)
        if last is None or last.plan != self.digest or self.across.is_full(last.age):
            return 0
        return last.age

    def _before(self, memory: Sequence[dict[str, Any]]) -> Tensor | None:
        """(B, taken cells, tokens, width), zeros for rows that take nothing; None if none does."""
        rows = [
            row[KEY].values if age else None for row, age in zip(memory, self.ages, strict=True)
        ]
        some = next((values for values in rows if values is not None), None)
        if some is None:
            return None
        nothing = torch.zeros_like(some)
        return torch.stack([nothing if values is None else values for values in rows])

    @property
    def kept_bytes(self) -> int:
        """What the rows' memories hold after the query."""
        return 0 if self.memory is None else sum(value.nbytes for value in self.held)

    @property
    def full_share(self) -> float:
        """Of the rows."""
        return 1.0 - float(self.reusing.double().mean()) if len(self.reusing) else 1.0

    def __call__(self, step: int, site: int, compute: Compute) -> Tensor:
        place = self.place.get((step, site))
        if place is None:
            return super().__call__(step, site, compute)
        if self.before is None:
            value = compute()
        else:
            value = self._taken(step, site, self.before[:, place])
            if not bool(self.reusing.all()):
                rows = self.reusing.to(value.device)[:, None, None]
                value = torch.where(rows, value, compute())
        self.computed[step, site] = self.full_share
        self.stored[site].appendleft(value)
        if self.memory is not None:
            self.held.append(value)
        return value

    def _taken(self, step: int, site: int, before: Tensor) -> Tensor:
        weights = self.across.alpha[step, site]
        total: Tensor = float(weights[BEFORE]) * before
        if weights[OWN]:
            total = total + float(weights[OWN]) * self.stored[site][0]
        return self._biased(total, step, site)

    def keep(self) -> None:
        """Put what the next query may take into the memory of each row, after the last step."""
        if self.memory is None:
            return
        values = torch.stack(self.held, dim=1)
        for row, (kept, age) in enumerate(zip(self.memory, self.ages, strict=True)):
            kept[KEY] = Carried(self.digest, age + 1, values[row].clone())
