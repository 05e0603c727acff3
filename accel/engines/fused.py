"""The fused engine: network, sampler and plan compiled into one program for a batch size.

Lossless against the plain policy but for rounding: keys and values of memory tokens are computed
once per query (observations) or once per engine (time), tokens that no executed action depends on
are left out where attention is causal, projections are fused and packed, the sampler is a table,
and a run of hits is one addition. The program runs in C (native.c) where it can, else in torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..flops import live_query_flops
from ..plan import CachePlan
from ..protocol import Noise, Transparent
from .native_program import NativeProgram, unsupported
from .schedule import compile_plan
from .torch_program import TorchProgram

log = logging.getLogger(__name__)

PROGRAMS: dict[str, Any] = {"native": NativeProgram, "torch": TorchProgram}
PRECISIONS = {  # who can run it, the faster one first
    "exact": ("native", "torch"),
    "half": ("native",),
    "bf16": ("torch",),
    "tf32": ("torch",),
}


@dataclass
class FusedConfig:
    """How the program runs.

    backend: native (C, compiled on first use), torch, or auto: native where it can run.
    precision: exact is float32; half rounds the weights to half precision (native), bf16 weights
        and inputs of linears to bfloat16 (torch), tf32 their inputs to 19 bits (torch on CUDA).
    """

    name: str = "fused"
    backend: str = "auto"
    precision: str = "exact"

    def __post_init__(self) -> None:
        for key, allowed in {
            "backend": ("auto", "native", "torch"),
            "precision": tuple(PRECISIONS),
        }.items():
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"engine.{key} must be one of {', '.join(allowed)}, got {getattr(self, key)!r}"
                )


class FusedEngine:
    """Runs `policy` under `plan`; compiled for a batch size when it is first seen.

    kernels: {layer: kernel} of quantised layers, as `kernels()` names them and `quant.choice`
        finds them; those it does not name run in integers. Names of other layers have no effect.
    """

    def __init__(
        self,
        policy: Transparent,
        plan: CachePlan,
        config: FusedConfig,
        kernels: Mapping[str, str] | None = None,
    ) -> None:
        self.policy, self.plan, self.config = policy, plan, config
        self.backend = choose_backend(policy, config)
        self._compile = PROGRAMS[self.backend]
        self._chosen = dict(kernels or {})
        self.computed = np.zeros_like(plan.mask, dtype=np.int64)
        self.cache_bytes = 0
        self._steps = compile_plan(plan)
        self._programs: dict[int, Any] = {}

    def act(self, obs: Tensor, noise: Noise) -> Tensor:
        policy = self.policy
        policy.check(obs, noise)
        with torch.inference_mode():
            if len(obs) not in self._programs:
                self._programs = {
                    len(obs): self._compile(
                        policy,
                        self.plan,
                        self._steps,
                        len(obs),
                        self.config.precision,
                        self._chosen,
                    )
                }
            program = self._programs[len(obs)]
            trajectory = program.run(
                policy.normalizer.normalize("obs", obs.to(policy.device)), noise
            )
            actions = policy.normalizer.unnormalize("action", trajectory[..., : policy.action_dim])
        self.computed += self.plan.mask
        self.cache_bytes = program.cache_bytes
        first = 0 if policy.pred_action_steps_only else policy.n_obs_steps - 1
        executed: Tensor = actions[:, first : first + policy.n_action_steps].clone()
        return executed

    def flops(self, computed: np.ndarray) -> int:
        """Of one query of one row, from the mean of computed cells."""
        return live_query_flops(self.policy, computed)

    def kernels(self) -> dict[str, str]:
        """Kernel of each linear layer of the newest program."""
        return {k: v for p in self._programs.values() for k, v in p.kernels.items()}


def settled(config: Any, policy: Transparent) -> Any:
    """An engine's config with nothing left to the machine, for a run's identity."""
    if not isinstance(config, FusedConfig):
        return config
    return replace(config, backend=choose_backend(policy, config))


def choose_backend(policy: Transparent, config: FusedConfig) -> str:
    """What runs the program of this policy on this machine: native or torch.

    Raises:
        ValueError: native was asked for and cannot run, with the reason.
    """
    reason = unsupported(policy, config.precision)
    able = {"native": reason is None, "torch": True}
    wanted = [b for b in PRECISIONS[config.precision] if able[b]]
    if config.backend != "auto":
        wanted = [b for b in wanted if b == config.backend]
    if config.precision == "tf32" and policy.device.type != "cuda":
        wanted, reason = [], f"device is {policy.device}"
    if not wanted:
        reason = reason or f"that precision is for {' or '.join(PRECISIONS[config.precision])}"
        raise ValueError(
            f"engine.backend={config.backend} with engine.precision={config.precision} "
            f"cannot run here: {reason}"
        )
    if reason and config.backend == "auto":
        log.info("the fused engine runs through torch: %s", reason)
    return wanted[0]
