"""The reference engine: the plain network, branch by branch; the oracle of every test."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..plans.bands import low_pass
from ..plans.flops import query_flops
from ..plans.plan import CachePlan
from ..plans.sites import nested
from ..plans.thresholds import Decisions, Threshold, normed, time_tokens
from ..protocol import Compute, Noise, Transparent


@dataclass
class ReferenceConfig:
    """No settings: float32, the network's own modules."""

    name: str = "reference"


class Session:
    """The cache of one query: the last computed values of each site, newest first."""

    def __init__(self, plan: CachePlan, bias: Tensor | None = None, live: int = 1) -> None:
        self.plan, self.bias, self.live = plan, bias, live
        self.stored: list[deque[Tensor]] = [deque(maxlen=plan.n_slots) for _ in plan.sites]
        self.computed = np.zeros_like(plan.mask, dtype=np.int64)

    def __call__(self, step: int, site: int, compute: Compute) -> Tensor:
        stored = self.stored[site]
        if self.plan.mask[step, site]:
            self.computed[step, site] += 1
            stored.appendleft(compute())
            return stored[0]
        return self._biased(self._combined(step, site, list(stored)), step, site)

    def _combined(self, step: int, site: int, stored: list[Tensor]) -> Tensor:
        if self.plan.alpha is None:
            return stored[0]
        total: Tensor = self.plan.alpha[step, site, 0] * stored[0]
        for coefficient, value in zip(self.plan.alpha[step, site, 1:], stored[1:], strict=False):
            total = total + coefficient * value
        if self.plan.bands is not None:
            low = self.plan.bands.low[step, site]
            terms = [c * x[:, : self.live] for c, x in zip(low, stored, strict=False)]
            projection = torch.from_numpy(low_pass(self.live, self.plan.bands.cutoff))
            added = projection.to(total) @ torch.stack(terms).sum(dim=0)
            total = total + F.pad(added, (0, 0, 0, total.shape[-2] - self.live))
        return total

    def _biased(self, value: Tensor, step: int, site: int) -> Tensor:
        if self.bias is None:
            return value
        bias = self.bias[step, site]
        dead = value.shape[-2] - bias.shape[-2]  # later tokens, on which no executed action depends
        return value + F.pad(bias, (0, 0, 0, dead))


class DecidingSession:
    """The cache of one query that decides at run time: everything is computed, and rows choose."""

    def __init__(
        self, plan: CachePlan, rule: Threshold, live: int, inputs: list[Tensor], time: Tensor | None
    ) -> None:
        self.plan, self.rule, self.live, self.inputs = plan, rule, live, inputs
        self.decisions = Decisions(rule, time)
        self.stored: list[deque[Tensor]] = [deque(maxlen=1) for _ in plan.sites]
        self.computed = np.zeros(plan.mask.shape)

    def __call__(self, step: int, site: int, compute: Compute) -> Tensor:
        value = compute()
        if site == 0:
            self.before = torch.zeros_like(value)
        if site == self.rule.first:
            probe = self.inputs[-1] if self.rule.probe == "norm" else self.before
            self.go = self.decisions(step, probe[:, : self.live])
        if site < self.rule.first:
            self.before = self.before + value
            self.computed[step, site] = 1
            return value
        stored = self.stored[site]
        stored.append(torch.where(self.go[:, None, None], value, stored[0]) if stored else value)
        self.computed[step, site] = float(self.go.double().mean())
        return stored[0]


class Recording(Protocol):
    """What runs the branches of one query, and knows what it computed."""

    stored: list[deque[Tensor]]
    computed: np.ndarray

    def __call__(self, step: int, site: int, compute: Compute) -> Tensor: ...


@contextmanager
def session(
    policy: Transparent, plan: CachePlan, bias: Tensor | None = None
) -> Iterator[Recording]:
    """A `StepBranch` for one query of the policy; a deciding one watches its first norm."""
    live = 1 if nested(plan.sites) else policy.n_live + policy.sizes.encoder_only
    if plan.decide is None:
        yield Session(plan, bias, live)
        return
    time = time_tokens(policy) if plan.decide.probe == "norm" else None
    with normed(policy) as inputs:
        yield DecidingSession(plan, plan.decide, live, inputs, time)


def bias_of(plan: CachePlan, device: torch.device) -> Tensor | None:
    """What hits add besides, for a `Session`."""
    bias = plan.hit_bias()
    return None if bias is None else torch.from_numpy(bias).to(device)


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

    def act(self, obs: Tensor, noise: Noise) -> Tensor:
        with session(self.policy, self.plan, self._bias) as branch:
            actions = self.policy.act(obs, noise, branch)
        self.computed = self.computed + branch.computed
        self.cache_bytes = sum(value.nbytes for stored in branch.stored for value in stored)
        if isinstance(branch, DecidingSession):
            self.trace = branch.decisions.trace
        self.cache_bytes += 0 if self._bias is None else self._bias.nbytes
        return actions

    def flops(self, computed: np.ndarray) -> int:
        """Of one query of one row, from the mean of computed cells."""
        return query_flops(self.policy, computed)

    def kernels(self) -> dict[str, str]:
        """Kernel of each linear layer, where it is not torch's own."""
        return {}
