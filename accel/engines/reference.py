"""The reference engine: the plain network, branch by branch; the oracle of every test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..plans.across import reaches_back
from ..plans.flops import query_flops
from ..plans.plan import CachePlan
from ..protocol import Memories, Noise, Transparent
from .carrying import CarryingSession
from .deciding import session
from .sessions import Recording, bias_of


@dataclass
class ReferenceConfig:
    """No settings: float32, the network's own modules."""

    name: str = "reference"


class ReferenceEngine:
    """Runs `policy` under `plan`; the policy itself is never changed.

    kernels: has no effect, quantised layers run as they are, in torch.
    """

    trace: np.ndarray | None = None

    def __init__(
        self,
        policy: Transparent,
        plan: CachePlan,
        config: ReferenceConfig,
        kernels: Mapping[str, str] | None = None,
    ) -> None:
        self.policy, self.plan = policy, plan
        self.computed: np.ndarray = np.zeros_like(plan.mask, dtype=np.int64)
        self.cache_bytes = 0
        self._bias = bias_of(plan, policy.device)
        self._carries = plan.digest() if reaches_back(plan) else None
        self.rows = {"full": 0, "reusing": 0}

    def denoise(self, cond: Tensor, noise: Noise, memory: Memories = None) -> Tensor:
        """As the policy's, for what its `encode` gave.

        memory: one dict a row, of its episode, for a plan that takes values of the query before.
        """
        with self._session(len(cond), memory) as branch:
            actions = self.policy.denoise(cond, noise, branch)
        self.computed = self.computed + branch.computed
        self.cache_bytes = sum(value.nbytes for stored in branch.stored for value in stored)
        self.trace = branch.trace
        self.cache_bytes += branch.kept_bytes if isinstance(branch, CarryingSession) else 0
        self.cache_bytes += 0 if self._bias is None else self._bias.nbytes
        return actions

    @contextmanager
    def _session(self, n_rows: int, memory: Memories) -> Iterator[Recording]:
        if self._carries is None or self.plan.across is None:
            with session(self.policy, self.plan, self._bias) as branch:
                yield branch
            return
        across, live = self.plan.across, self.policy.n_live + self.policy.sizes.encoder_only
        carrying = CarryingSession(self.plan, across, self._carries, self._bias, live, memory)
        yield carrying
        carrying.keep()
        n_reusing = int(carrying.reusing.sum())
        self.rows["reusing"] += n_reusing
        self.rows["full"] += n_rows - n_reusing

    def flops(self, computed: np.ndarray) -> int | None:
        """Of one query of one row, from the mean of computed cells."""
        return query_flops(self.policy, computed)

    def kernels(self) -> dict[str, str]:
        """Kernel of each linear layer, where it is not torch's own."""
        return {}
