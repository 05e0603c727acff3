"""The reference engine: the plain network, branch by branch; the oracle of every test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..plan import CachePlan
from ..protocol import Accelerable, Compute, Noise


@dataclass
class ReferenceConfig:
    """No settings: float32, the network's own modules."""

    name: str = "reference"


class Session:
    """The cache of one query: the last computed value of each site."""

    def __init__(self, plan: CachePlan) -> None:
        self.mask = plan.mask.tolist()
        self.last: dict[int, Tensor] = {}
        self.computed = np.zeros_like(plan.mask, dtype=np.int64)

    def __call__(self, step: int, site: int, compute: Compute) -> Tensor:
        if not self.mask[step][site]:
            return self.last[site]
        self.computed[step, site] += 1
        self.last[site] = compute()
        return self.last[site]


class ReferenceEngine:
    """Runs `policy` under `plan`; the policy itself is never changed."""

    def __init__(self, policy: Accelerable, plan: CachePlan) -> None:
        self.policy, self.plan = policy, plan
        self.computed = np.zeros_like(plan.mask, dtype=np.int64)
        self.cache_bytes = 0

    def act(self, obs: Tensor, noise: Noise) -> Tensor:
        session = Session(self.plan)
        actions = self.policy.act(obs, noise, session)
        self.computed += session.computed
        self.cache_bytes = sum(value.nbytes for value in session.last.values())
        return actions

    def kernels(self) -> dict[str, str]:
        """Kernel of each linear layer, where it is not torch's own."""
        return {}
