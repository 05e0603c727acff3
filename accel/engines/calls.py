"""The fused engine of UNets and DiTs: the network's calls in C, under the policy's own sampler.

Lossless against the plain policy but for rounding: layers and convolutions have packed weights,
norms, activations and conditions are passes over the features, what observations say is computed
once a query and what time says once. Any plan runs, as in the reference engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..families import family_of
from ..plans.flops import query_flops
from ..plans.plan import CachePlan
from ..protocol import Noise
from .backend import FusedConfig, check_plan, kernels_of
from .deciding import session
from .dit_program import DitProgram
from .parts import quantised_of
from .sessions import bias_of
from .unet_program import UnetProgram

PROGRAMS: dict[str, Any] = {"unet": UnetProgram, "dit": DitProgram}


class FusedCalls:
    """Runs `policy` under `plan`; compiled for a batch size when it is first seen.

    A plan that decides at run time asks the network's own modules, since it looks into them.

    kernels: {layer: kernel} of quantised layers, as `kernels()` names them; without it all run in
        integers, checked.
    """

    trace: np.ndarray | None = None

    def __init__(
        self,
        policy: Any,
        plan: CachePlan,
        config: FusedConfig,
        kernels: Mapping[str, str] | None = None,
    ) -> None:
        check_plan(config, plan, policy)
        self.policy, self.plan, self.config = policy, plan, config
        self.computed: np.ndarray = np.zeros_like(plan.mask, dtype=np.int64)
        self.cache_bytes = 0
        self._programs: dict[int, Any] = {}
        self._bias = bias_of(plan, policy.device)
        self._chosen = kernels_of(policy, config) if kernels is None else dict(kernels)
        layers = quantised_of(policy)
        self._of_layer = {layers[n]: kernel for n, kernel in self._chosen.items() if n in layers}

    def denoise(self, cond: Tensor, noise: Noise) -> Tensor:
        """As the policy's, for what its `encode` gave."""
        with torch.inference_mode():
            network = None if self.plan.decide else self._program(cond)
            if self.plan.decide is None and self.plan.mask.all():
                actions: Tensor = self.policy.denoise(cond, noise, None, network)
                self.computed = self.computed + self.plan.mask
                return actions
            with session(self.policy, self.plan, self._bias) as branch:
                actions = self.policy.denoise(cond, noise, branch, network)
        self.computed, self.trace = self.computed + branch.computed, branch.trace
        self.cache_bytes = sum(value.nbytes for stored in branch.stored for value in stored)
        self.cache_bytes += 0 if self._bias is None else self._bias.nbytes
        return actions

    def _program(self, cond: Tensor) -> Any:
        """The network for so many rows, which has observed them."""
        if len(cond) not in self._programs:
            program = PROGRAMS[self.policy.sizes.family]
            precision = self.config.precision
            made = program(self.policy, len(cond), precision, self._of_layer)
            self._programs = {len(cond): made}
        network = self._programs[len(cond)]
        network.observe(cond)
        return network

    @property
    def weight_bytes(self) -> int:
        """Of the linear layers of the newest program, as they are stored."""
        return sum(program.packed.weight_bytes for program in self._programs.values())

    def flops(self, computed: np.ndarray) -> int | None:
        """Of one query of one row, from the mean of computed cells."""
        if self.plan.decide is not None:
            return query_flops(self.policy, computed)
        costs = family_of(self.policy).costs
        assert costs is not None
        assert costs.fused is not None
        return costs.fused(self.policy, computed)

    def kernels(self) -> dict[str, str]:
        """Kernel of each quantised layer."""
        return dict(self._chosen)
