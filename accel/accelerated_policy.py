"""A policy that is made cheaper: what it computes, and what it counted."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from .chosen import entry_of
from .engines import ENGINES, kernels_of
from .engines.backend import slower_layers
from .engines.parts import name_of
from .plans.across import reaches_back
from .plans.flops import encode_flops
from .plans.plan import CachePlan
from .protocol import Accelerable, Memories, Noise, Observation
from .quant import Quantized

log = logging.getLogger(__name__)


def digest_of(
    plan: CachePlan, quantised: Quantized | None, kernels: Mapping[str, str] | None = None
) -> str:
    """Hash of what an accelerated policy does: of its plan, its codes and what multiplies them."""
    if quantised is None:
        return plan.digest()
    named = json.dumps(dict(kernels or {}), sort_keys=True).encode()
    return f"{plan.digest()}-{quantised.digest()}-{hashlib.sha256(named).hexdigest()[:16]}"


class AcceleratedPolicy:
    """Acts like the policy it was made from, only cheaper."""

    def __init__(
        self,
        policy: Accelerable,
        plan: CachePlan,
        engine: Any,
        quantised: Quantized | None = None,
        kernels: Mapping[str, str] | None = None,
    ) -> None:
        self.policy, self.plan, self.quantised = policy, plan, quantised
        self.n_obs_steps, self.n_action_steps = policy.n_obs_steps, policy.n_action_steps
        self.obs_dim, self.action_dim = policy.obs_dim, policy.action_dim
        self.n_queries = 0
        self.closed = False
        runs: Any = policy if quantised is None else quantised.model
        self.runs = runs
        make = entry_of(ENGINES, engine, "engine")[1]
        self._kernels = dict(kernels_of(runs, engine) if kernels is None else kernels)
        self.engine = engine
        self._engine: Any = make(runs, plan, engine, self._kernels)

    def warn_slower(self) -> None:
        """Log it if quantised layers are slower than float32 here; kernels are timed for it."""
        if said := slower_layers(self.runs, self.engine, self._kernels):
            log.warning("%s", said)

    @property
    def obs_spec(self) -> Any:
        """The policy's."""
        return self.policy.obs_spec

    @property
    def keeps_memory(self) -> bool:
        """Whether its plan takes values of the query before, see `Across`."""
        return reaches_back(self.plan)

    def act(self, obs: Observation, noise: Noise, memory: Memories = None) -> Tensor:
        """Observations -> (B, n_action_steps, action_dim); arguments as the policy's."""
        self.policy.check(obs, noise)
        kept = memory if self.keeps_memory else None
        return self.denoise(self.encode(obs, memory), noise, kept)

    def encode(self, obs: Observation, memory: Memories = None) -> Tensor:
        """Observations -> (B, n_obs_steps, cond_dim); arguments as the policy's."""
        cond: Tensor = self.runs.encode(obs, memory)
        return cond

    def denoise(self, cond: Tensor, noise: Noise, memory: Memories = None) -> Tensor:
        """What `encode` gave -> (B, n_action_steps, action_dim); noise as the policy's.

        memory: of each row's episode, for a plan with `keeps_memory`; None: a query in full.
        """
        if self.closed:
            raise RuntimeError("the context of this accelerated policy has ended")
        if self.policy.n_inference_steps != self.plan.n_steps:
            raise RuntimeError(
                f"the model would be called {self.policy.n_inference_steps} times a query, "
                f"the plan has {self.plan.n_steps} steps: the policy's sampler was changed"
            )
        if not len(cond):  # which no program is compiled for
            return cond.new_empty(0, self.n_action_steps, self.action_dim)
        kept = () if memory is None or not self.keeps_memory else (memory,)
        actions: Tensor = self._engine.denoise(cond, noise, *kept)
        self.n_queries += 1
        return actions

    def uncounted(self) -> AcceleratedPolicy:
        """The same, not counted here; with a memory, every query after the first is a later one."""
        plan = self.plan
        if plan.across is not None:
            plan = replace(plan, across=replace(plan.across, refresh=0))
        return AcceleratedPolicy(self.policy, plan, self.engine, self.quantised, self._kernels)

    def digest(self) -> str:
        """Hash of what it does, see `digest_of`."""
        return digest_of(self.plan, self.quantised, self._kernels)

    def stats(self) -> dict[str, Any]:
        """What ran so far.

        Returns:
            computed, hits: (steps, sites) how often each cell was computed and how often not (it
                was reused, or inside of a site that was), as lists; n_queries;
            flops: of one query of one row, int; None where they are not known. encode_flops: of
                encoding images before it, only where there is an encoder;
            cache_bytes: held by the last query; kernels: {layer: name};
            plan: hash of the plan;
            trace: (B, steps) of the last query where the plan decides at run time, true where a row
                computed; `computed` and `hits` are then means over rows.
            across: where it takes values of the query before: refresh, rows, reusing_rows, and
                full_flops and reusing_flops of a query of either kind; `computed`, `hits` and
                `flops` are then means over rows.
            quantised: of each quantised layer what its `LayerReport` says, and its kernel.
        """
        computed = self._engine.computed
        queries, encode = max(self.n_queries, 1), encode_flops(self.policy)
        return {
            "n_queries": self.n_queries,
            "computed": computed.tolist(),
            "hits": (self.n_queries - computed).tolist(),
            "flops": self._engine.flops(computed / queries) if self.n_queries else 0,
            **({} if encode is None else {"encode_flops": encode}),
            "cache_bytes": self._engine.cache_bytes,
            "kernels": self._engine.kernels(),
            "plan": self.plan.digest(),
            **({} if self._engine.trace is None else {"trace": self._engine.trace.tolist()}),
            **({"across": self._across()} if self.keeps_memory else {}),
            "quantised": self._layers(),
        }

    def _across(self) -> dict[str, Any]:
        plan, rows = self.plan, self._engine.rows
        assert plan.across is not None
        return {
            "refresh": plan.across.refresh,
            "rows": rows["full"] + rows["reusing"],
            "reusing_rows": rows["reusing"],
            "full_flops": self._engine.flops(plan.mask),
            "reusing_flops": self._engine.flops(plan.mask & ~plan.across.taken),
        }

    def _layers(self) -> list[dict[str, Any]]:
        if self.quantised is None:
            return []
        kernels = self._engine.kernels()
        found = []
        for report in self.quantised.layers:
            name = name_of(self.policy, report.name)
            found.append({**asdict(report), "kernel": kernels.get(name or "", "torch")})
        return found
