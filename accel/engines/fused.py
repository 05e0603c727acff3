"""The fused engine: network, sampler and plan compiled into one program for a batch size.

Lossless against the plain policy but for rounding: keys and values of memory tokens are computed
once per query (observations) or once per engine (time), tokens that no executed action depends on
are left out where attention is causal, projections are fused and packed, the sampler is a table,
and a run of hits is one addition. The program runs in C (native.c) where it can, else in torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..families.transformer import fused_flops
from ..plans.plan import CachePlan
from ..protocol import Noise, Transparent
from .backend import FusedConfig, check_plan, choose_backend, kernels_of
from .native_program import NativeProgram
from .program import compile_plan
from .torch_program import TorchProgram

PROGRAMS: dict[str, Any] = {"native": NativeProgram, "torch": TorchProgram}


class FusedEngine:
    """Runs `policy` under `plan`; compiled for a batch size when it is first seen.

    kernels: {layer: kernel} of quantised layers, as `kernels()` names them; those it does not name
        run in integers, and without it all of them, checked. Names of other layers have no effect.
    """

    def __init__(
        self,
        policy: Transparent,
        plan: CachePlan,
        config: FusedConfig,
        kernels: Mapping[str, str] | None = None,
    ) -> None:
        check_plan(config, plan)
        self.policy, self.plan, self.config = policy, plan, config
        self.backend = choose_backend(policy, config)
        self._compile = PROGRAMS[self.backend]
        self._chosen = kernels_of(policy, config) if kernels is None else dict(kernels)
        self.computed: np.ndarray = np.zeros_like(plan.mask, dtype=np.int64)
        self.trace: np.ndarray | None = None
        self.cache_bytes = 0
        self._steps = compile_plan(plan)
        self._programs: dict[int, Any] = {}

    def denoise(self, cond: Tensor, noise: Noise) -> Tensor:
        """As the policy's, for what its `encode` gave."""
        policy = self.policy
        with torch.inference_mode():
            if len(cond) not in self._programs:
                self._programs = {
                    len(cond): self._compile(
                        policy,
                        self.plan,
                        self._steps,
                        len(cond),
                        self.config.precision,
                        self._chosen,
                    )
                }
            program = self._programs[len(cond)]
            trajectory = program.run(cond, noise)
            actions = policy.normalizer.unnormalize("action", trajectory[..., : policy.action_dim])
        self.trace = program.trace
        self.computed = self.computed + self.plan.cells(self.trace)
        self.cache_bytes = program.cache_bytes
        first = 0 if policy.pred_action_steps_only else policy.n_obs_steps - 1
        executed: Tensor = actions[:, first : first + policy.n_action_steps].clone()
        return executed

    @property
    def weight_bytes(self) -> int:
        """Of the linear layers of the newest program, as they are stored."""
        return sum(program.packed.weight_bytes for program in self._programs.values())

    def flops(self, computed: np.ndarray) -> int:
        """Of one query of one row, from the mean of computed cells."""
        return fused_flops(self.policy, computed)

    def kernels(self) -> dict[str, str]:
        """Kernel of each linear layer of the newest program; of quantised ones from the start."""
        return self._chosen | {k: v for p in self._programs.values() for k, v in p.kernels.items()}
