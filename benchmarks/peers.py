"""A policy's network exported to OpenVINO: the peer that the fused engine is timed beside.

    pip install openvino==2026.4.1

It is one compiled network that a Python loop calls for each step, as a user of OpenVINO would have
it; the sampler around it is diffusers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from accel import query_flops
from accel.kernels.native import bfloat_cpu
from policies import DiffusionPolicy

from .setting import Arm, Setting, Unavailable
from .stock import act, stock_policy


class Exported:
    """A network in OpenVINO on one CPU thread.

    Args:
        model: (B, T, D), (B,), (B, n_obs_steps, cond_dim) -> (B, T, D).
        inputs: examples of these, of the sizes that it will be called with.
        precision: f32, or bf16 where the CPU has it.
    """

    def __init__(self, model: Any, inputs: Sequence[Tensor], precision: str = "f32") -> None:
        try:
            import openvino
        except ImportError as error:
            raise Unavailable(f"{error}; pip install openvino") from error
        converted = openvino.convert_model(
            model, example_input=tuple(inputs), input=[tuple(x.shape) for x in inputs]
        )
        self.tokens, self.obs_as_cond = inputs[0].shape[1], True
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
        self.request = compiled.create_infer_request()

    def __call__(self, sample: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        """What `model` returns, for the first T tokens; zeros for the rest."""
        given = [np.ascontiguousarray(x) for x in (sample[:, : self.tokens], timestep, cond)]
        found = torch.from_numpy(self.request.infer(given, share_inputs=True)[0].copy())
        return F.pad(found, (0, 0, 0, sample.shape[1] - self.tokens))


def shortened(policy: DiffusionPolicy, tokens: int) -> torch.nn.Module:
    """The network of a causal transformer over its first tokens alone, which see no later ones."""
    sizes = policy.config.network
    if not getattr(sizes, "causal_attn", False):
        raise Unavailable("only a causal network can leave its last tokens out")
    short = type(policy.model)(replace(sizes, horizon=tokens)).eval()
    own, weights = short.state_dict(), policy.model.state_dict()
    for name, value in own.items():
        value.copy_(weights[name][tuple(map(slice, value.shape))])
    return short


def openvino_policy(
    policy: DiffusionPolicy, batch: int, precision: str = "f32", tokens: int | None = None
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """(observations (B, n_obs_steps, obs_dim), noise) -> actions, the network in OpenVINO.

    Args:
        policy: a transformer or a UNet.
        batch: B.
        precision: f32 or bf16.
        tokens: how many the network computes, from the first on; None for all. A causal transformer
            needs those up to the last executed action alone (`policy.n_live`).
    """
    sizes = policy.sizes
    if sizes.family not in ("transformer", "unet") or sizes.cond_dim == 0:
        raise Unavailable("only transformers and UNets with a condition are exported")
    live = stock_policy(policy)
    x = torch.zeros(batch, tokens or policy.config.length, sizes.input_dim)
    seen = torch.zeros(batch, policy.n_obs_steps, sizes.cond_dim)
    times = torch.zeros(batch, dtype=torch.int64)
    del live.model  # a module, in whose place nothing else may be put
    network = shortened(policy, tokens) if tokens else policy.model
    live.model = Exported(network, (x, times, seen), precision)
    return partial(act, live)


def openvino_arm(precision: str = "f32", live: bool = False) -> Callable[[Setting], Arm]:
    """The row's policy in OpenVINO, all tokens or, as our engine does, those that are executed."""

    def arm(setting: Setting) -> Arm:
        policy = setting.policy
        if precision == "bf16" and not bfloat_cpu():
            raise Unavailable("this CPU has no products of bfloat16 (avx512_bf16)")
        tokens = policy.n_live if live else None
        run = openvino_policy(policy, len(setting.obs), precision, tokens)
        flops = query_flops(policy, setting.full())
        note = "live tokens only" if live else "all tokens"
        return Arm(lambda: run(setting.obs, setting.noise()), flops, flops, note)

    return arm
