"""Choose settings on the calibration queries: by mean action error, half of the work saved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from .arms import ARMS
from .candidates import Budget, Candidate
from .measure import actions_of, rms
from .questions import Questions

log = logging.getLogger(__name__)
FEW = 16
KEPT = 0.25


class Chooser:
    """Chosen settings of the arms at one budget; each plan is run once.

    All candidates meet `FEW` of the calibration queries, the best quarter all of them.
    """

    def __init__(self, budget: Budget, asked: Questions, known: Mapping[str, str]) -> None:
        """`known`: {arm: words of its chosen setting} of an earlier run."""
        self.budget, self.known = budget, known
        self.stages = [asked.first(FEW), asked]
        self.errors: dict[tuple[str, int], float] = {}
        self.chosen: dict[str, Candidate | None] = {}

    def error(self, candidate: Candidate, stage: int = 1) -> float:
        """Mean action error on the calibration queries (stage 0: on few of them)."""
        plan, asked = candidate.program.plan, self.stages[stage]
        key = (plan.digest() if plan else candidate.words, len(asked.obs))
        if key not in self.errors:
            actions = actions_of(candidate.program, asked.obs, asked.noise())
            self.errors[key] = float(rms(actions, asked.plain).mean())
        return self.errors[key]

    def best(self, arm: str) -> Candidate | None:
        """The chosen setting of an arm, the first where several do as well; None if none fits S."""
        if arm not in self.chosen:
            self.chosen[arm] = self._choose(arm, list(ARMS[arm].candidates(self.budget, self.best)))
        return self.chosen[arm]

    def _choose(self, arm: str, candidates: Sequence[Candidate]) -> Candidate | None:
        for candidate in candidates:
            if len(candidates) == 1 or self.known.get(arm) == candidate.words:
                return candidate
        for stage in range(len(self.stages)):
            bar = tqdm(candidates, desc=f"{arm}: choosing", disable=None, leave=False)
            errors = [self.error(candidate, stage) for candidate in bar]
            order = np.argsort(errors, kind="stable")
            kept = max(4, round(KEPT * len(order))) if stage == 0 else 1
            candidates = [candidates[i] for i in sorted(order[:kept])]
        return candidates[0] if candidates else None
