"""A UNet's network exported to OpenVINO: the peer that UNets are timed beside.

    pip install openvino==2026.4.1

It is one compiled network that a Python loop calls for each step, as a user of OpenVINO would have
it; the sampler around it is diffusers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policies import DiffusionPolicy

from .setting import Unavailable
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
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
        self.request = compiled.create_infer_request()

    def __call__(self, sample: Tensor, timestep: Tensor, cond: Tensor) -> Tensor:
        """What `model` returns."""
        given = [np.ascontiguousarray(x) for x in (sample, timestep, cond)]
        return torch.from_numpy(self.request.infer(given, share_inputs=True)[0].copy())


def openvino_unet(
    policy: DiffusionPolicy, batch: int, precision: str = "f32"
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """(observations (B, n_obs_steps, obs_dim), noise) -> actions, the network in OpenVINO."""
    live, sizes = stock_policy(policy), policy.sizes
    if sizes.obs_as == "in-painting":
        raise Unavailable("only networks with a condition are exported")
    x = torch.zeros(batch, live.length, sizes.input_dim)
    seen = torch.zeros(batch, policy.n_obs_steps, sizes.cond_dim)
    times = torch.zeros(batch, dtype=torch.int64)
    live.model = Exported(policy.model, (x, times, seen), precision)
    return partial(act, live)
