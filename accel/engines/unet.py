"""The fused engine of UNets: the network's calls in C, under the policy's own sampler and any plan.

Lossless against the plain policy but for rounding: convolutions are linear layers with packed
weights, norms, Mish and conditions are one pass over the features, what observations say is
computed once a query and what time says once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..families.unet import fused_flops
from ..plans.plan import CachePlan
from ..protocol import Noise
from .backend import FusedConfig, kernels_of
from .parts import quantised_of
from .sessions import Session
from .unet_program import UnetProgram


class FusedUnet:
    """Runs `policy` under `plan`; compiled for a batch size when it is first seen.

    kernels: {layer: kernel} of quantised convolutions, as `kernels()` names them; without it all
        run in integers, checked.
    """

    trace: np.ndarray | None = None

    def __init__(
        self,
        policy: Any,
        plan: CachePlan,
        config: FusedConfig,
        kernels: Mapping[str, str] | None = None,
    ) -> None:
        self.policy, self.plan, self.config = policy, plan, config
        self.computed: np.ndarray = np.zeros_like(plan.mask, dtype=np.int64)
        self.cache_bytes = 0
        self._programs: dict[int, UnetProgram] = {}
        self._chosen = kernels_of(policy, config) if kernels is None else dict(kernels)
        layers = quantised_of(policy)
        self._of_layer = {layers[n]: kernel for n, kernel in self._chosen.items() if n in layers}

    def denoise(self, cond: Tensor, noise: Noise) -> Tensor:
        """As the policy's, for what its `encode` gave."""
        with torch.inference_mode():
            if len(cond) not in self._programs:
                precision = self.config.precision
                program = UnetProgram(self.policy, len(cond), precision, self._of_layer)
                self._programs = {len(cond): program}
            network = self._programs[len(cond)]
            network.observe(cond)
            branch = None if self.plan.mask.all() else Session(self.plan)
            actions: Tensor = self.policy.denoise(cond, noise, branch, network)
        self.computed = self.computed + (self.plan.mask if branch is None else branch.computed)
        if branch is not None:
            self.cache_bytes = sum(value.nbytes for stored in branch.stored for value in stored)
        return actions

    def flops(self, computed: np.ndarray) -> int:
        """Of one query of one row, from the mean of computed cells."""
        return fused_flops(self.policy, computed)

    def kernels(self) -> dict[str, str]:
        """Kernel of each quantised layer."""
        return dict(self._chosen)
