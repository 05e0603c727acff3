"""This project's engines."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from accel import (
    FusedConfig,
    UniformConfig,
    accelerated,
    calibrate,
    kernels_of,
    query_flops,
    resolve,
    summarize,
)
from accel.calibration.calibration import MIN_QUERIES
from accel.engines.parts import quantised_of
from accel.kernels.native import bfloat_works
from accel.quant import DuQuantConfig, collect, quantize
from accel.quant.fitting import n_bytes
from policies import DiffusionPolicy

from .setting import Arm, Setting, observations


def accelerated_arm(
    setting: Setting,
    engine: Any = "fused",
    cache: Any = None,
    policy: DiffusionPolicy | None = None,
    note: str = "",
    quant: Any = None,
) -> Arm:
    """An arm through `accelerated`; its first query is run."""
    policy = policy or setting.policy
    fast = setting.stack.enter_context(accelerated(policy, cache, quant, engine=engine))

    def query() -> torch.Tensor:
        return fast.act(setting.obs, setting.noise())

    query()
    stats = fast.stats()
    return Arm(query, query_flops(policy, np.array(stats["computed"])), stats["flops"], note)


def reference_none(setting: Setting) -> Arm:
    return accelerated_arm(setting, "reference")


def fused_float32(setting: Setting) -> Arm:
    """Other weights, by one part in 2^13, which half precision cannot hold; for its time only."""
    policy = copy.deepcopy(setting.policy)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1 + 2**-13)
    return accelerated_arm(setting, policy=policy, note="weights packed in float32")


def fused_bf16(setting: Setting) -> Arm:
    """Weights and inputs of layers rounded to bfloat16, in C where the CPU multiplies it."""
    note = "in C" if bfloat_works() else "in torch: this CPU has no avx512_bf16"
    return accelerated_arm(setting, FusedConfig(precision="bf16"), note=note)


def fused_uniform(setting: Setting) -> Arm:
    return accelerated_arm(setting, cache=setting.plan, note="quadratic spacing")


def fused_ddim(setting: Setting) -> Arm:
    return accelerated_arm(setting, policy=setting.short)


def fused_first_layer(setting: Setting) -> Arm:
    """What cache-dit's F1B0 does: the same steps, and the first layer in every step."""
    mask = setting.plan.mask.copy()
    mask[:, : len(setting.policy.sizes.branches)] = True
    plan = replace(setting.plan, mask=mask, method="uniform, first layer always")
    return accelerated_arm(setting, cache=plan, note="cache-dit's plan")


def fused_calibrated(config: type, note: str, **settings: Any) -> Callable[[Setting], Arm]:
    """A cache with a calibration of the row's policy, on queries like the row's."""

    def arm(setting: Setting) -> Arm:
        policy, noise = (
            setting.policy,
            [torch.Generator().manual_seed(i) for i in range(MIN_QUERIES)],
        )
        calibration = calibrate(policy, observations(policy, MIN_QUERIES), noise)
        plan = resolve(policy, config(steps=setting.steps, **settings), calibration)
        steps = summarize(plan, policy).equivalent_steps
        return accelerated_arm(setting, cache=plan, note=f"{note}; FLOPs of {steps:.1f} steps")

    return arm


def fused_duquant(weight_bits: int) -> Callable[[Setting], Arm]:
    """Every layer transformed, and run by the kernel that a run with quant=duquant takes."""

    def arm(setting: Setting) -> Arm:
        batch = observations(setting.policy, 1), setting.noise()
        found = collect(setting.policy, [batch], 1, run=lambda p, b: p.act(*b), rows=64)
        config = DuQuantConfig(method="duquant", weight_bits=weight_bits, clip=False)
        copied = quantize(setting.policy, found, config)
        layers = quantised_of(copied.model)
        before = sum(4 * layer.in_features * layer.out_features for layer in layers.values())
        share = sum(n_bytes(layer) for layer in layers.values()) / before
        kernels = Counter(kernels_of(copied.model, FusedConfig()).values())
        counts = ", ".join(f"{n} {name}" for name, n in sorted(kernels.items()))
        note = f"kernels: {counts}; layers take {share:.3f} of their bytes in fp32"
        return accelerated_arm(setting, note=note, quant=copied)

    return arm


def reusing(setting: Setting, n_steps: int) -> Arm:
    """One computed step and n_steps - 1 in which everything is reused: a probe, not an arm."""
    policy = setting.policy.with_sampler(setting.policy.config.sampler.with_steps(steps=n_steps))
    return accelerated_arm(setting, cache=UniformConfig(steps=1), policy=policy)
