"""Layers with planted outliers, and a small policy, for the tests of quantisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from accel.quant import DuQuantConfig
from accel.quant.fitting import fit_linear
from accel.quant.linear import QuantisedLinear
from accel.quant.statistics import LayerStatistics, Statistics, collect
from policies import DiffusionPolicy, NetworkConfig
from policies.policy import PolicyConfig
from policies.sampling.table import SamplerConfig

EVERYTHING = (".",)
BLOCKS = (r"layers\.\d",)  # with the keys and values of the memory


def planted(kind: str, k: int = 256, n: int = 192, tokens: int = 256) -> tuple[nn.Linear, Tensor]:
    """A random layer and inputs (tokens, k): "none", 4 "channels" of 20, or "massive" tokens."""
    generator = torch.Generator().manual_seed(1)
    linear = nn.Linear(k, n)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(n, k, generator=generator) / k**0.5)
        linear.bias.copy_(torch.randn(n, generator=generator))
    x = torch.randn(tokens, k, generator=generator)
    if kind == "channels":
        x[:, [3, k // 5, k // 5 + 1, k - 9]] *= 20
    if kind == "massive":
        x[::8, 7] = 120
    return linear, x


def statistics_of(x: Tensor) -> LayerStatistics:
    return LayerStatistics(x.abs().amax(0), x, (float(x.abs().max()),), len(x))


def fitted(
    linear: nn.Linear, x: Tensor, method: str = "duquant", **settings: Any
) -> QuantisedLinear:
    config = DuQuantConfig(method=method, **settings)
    return fit_linear("layer", linear, statistics_of(x), config, method, config.weight_bits)


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).double().norm() / expected.double().norm())


@torch.no_grad()
def output_error(linear: nn.Linear, x: Tensor, method: str, **settings: Any) -> float:
    layer = fitted(linear, x[: len(x) // 2], method, **settings)
    fresh = x[len(x) // 2 :]
    return relative(layer(fresh) - linear.bias, linear(fresh) - linear.bias)


def small_policy(steps: int = 4, **network: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    settings = {"cond_dim": 5, "n_layer": 2, "n_head": 2, "n_emb": 64, **network}
    width = 3 if settings["cond_dim"] else 8
    sizes = NetworkConfig(width, width, 8, 2, **settings)
    sampler = SamplerConfig(num_train_timesteps=steps, steps=steps)
    policy = DiffusionPolicy(PolicyConfig(sizes, 5, 3, 4, sampler=sampler)).eval()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return policy


def query(seed: int = 0, rows: int = 2) -> tuple[Tensor, list[torch.Generator]]:
    obs = torch.randn(rows, 2, 5, generator=torch.Generator().manual_seed(seed))
    return obs, [torch.Generator().manual_seed(seed * 100 + i) for i in range(rows)]


def policy_statistics(policy: DiffusionPolicy, n: int = 2) -> Statistics:
    batches = [query(seed) for seed in range(n)]
    return collect(policy, batches, n, run=lambda p, batch: p.act(*batch), rows=64)
