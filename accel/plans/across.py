"""What a query of an episode may take from the one before it: values of age 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .plan import CachePlan

OWN, BEFORE = range(2)  # slots of `Across.alpha`: of this query, and of the one before
REFRESH = 2


@dataclass(frozen=True, eq=False)
class Across:
    """Cells that a full query computes and a later one of the same episode takes.

    The plan's mask is a full query: an episode's first one, and every `refresh`-th from there on. A
    later query does not compute the cells with a weight of age 1 here, and holds in their place
    alpha[s, u, 0] X_0 + alpha[s, u, 1] Y (and the plan's bias there): X_0 the newest stored value
    of the site in this query, Y what the query before held in this very cell. That is then stored
    as a computed value would be, so other hits find as many anchors in either kind of query.

    Attributes:
        alpha: (N, n_sites, 2) float64; where alpha[s, u, 1] is 0, the cell is what it is without.
        refresh: queries from one full query to the next; 2: each Y was computed in the query
            before; 0: only an episode's first query is a full one, and values are handed on.
    """

    alpha: np.ndarray
    refresh: int = REFRESH

    @property
    def taken(self) -> np.ndarray:
        """(N, n_sites) bool, what a later query takes in place of computing it."""
        return np.asarray(self.alpha[..., BEFORE] != 0)

    @property
    def weights(self) -> np.ndarray:
        """`alpha` with zeros where nothing is taken."""
        return np.asarray(self.alpha * self.taken[..., None])

    def is_full(self, age: int | None) -> bool:
        """Whether a query computes all of the mask.

        Args:
            age: queries since the last full one, 1 for the next; None: there was none.
        """
        return age is None or (self.refresh > 0 and age >= self.refresh)

    def check(self, plan: CachePlan) -> str | None:
        """What is wrong with it as a part of `plan`, in words, or None."""
        shape = (*plan.mask.shape, 2)
        if self.alpha.shape != shape:
            return f"across must be {shape}, got {self.alpha.shape}"
        if type(self.refresh) is not int or self.refresh < 0 or self.refresh == 1:
            return f"across.refresh must be 0 or at least 2, got {self.refresh!r}"
        before = np.cumsum(plan.mask, axis=0) - plan.mask
        faults = (
            ("is not finite", ~np.isfinite(self.alpha).all(axis=2)),
            ("takes a value of the query before that it does not compute", self.taken & ~plan.mask),
            (
                "uses a stored value of its own query, there is none",
                self.taken & (self.alpha[..., OWN] != 0) & (before == 0),
            ),
        )
        for words, wrong in faults:
            if wrong.any():
                step, site = np.argwhere(wrong)[0]
                return f"across of {plan.sites[site].name} in step {step} {words}"
        return None


def taken_of(plan: CachePlan) -> np.ndarray:
    """(N, n_sites) bool, what a later query takes; nothing of a plan without it."""
    return np.zeros_like(plan.mask) if plan.across is None else plan.across.taken


def reaches_back(plan: CachePlan) -> bool:
    """Whether a query depends on the one before it."""
    return bool(taken_of(plan).any())
