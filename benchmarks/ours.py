"""This project's engines."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel import CachePlan, UniformConfig, accelerated, query_flops, resolve, summarize
from policies import DiffusionPolicy

from .setting import Arm, Program, Setting


def held() -> dict[object, int]:
    """{storage: bytes} of every tensor that Python holds; a packed weight has none of its own."""
    found: dict[object, int] = {}
    for thing in gc.get_objects():
        if type(thing) not in (torch.Tensor, torch.nn.Parameter) or thing.is_meta:
            continue
        if thing.layout != torch.strided:
            found["packed", id(thing)] = thing.numel() * thing.element_size()
        elif thing.untyped_storage().nbytes():
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return found


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def weight_bytes(policy: DiffusionPolicy) -> int:
    return sum(p.nbytes for p in policy.model.parameters())


def accelerated_arm(
    setting: Setting, engine: Any, cache: Any, policy: DiffusionPolicy | None = None, note: str = ""
) -> Arm:
    """An arm through `accelerated`; its first query is run, and what it then holds is counted."""
    policy = policy or setting.policy
    before, resident = held(), resident_bytes()
    fast = setting.stack.enter_context(accelerated(policy, cache, engine=engine))

    def query() -> torch.Tensor:
        return fast.act(setting.obs, setting.noise())

    query()
    new = {key: size for key, size in held().items() if key not in before}
    stats = fast.stats()
    return Arm(
        query,
        query_flops(policy, np.array(stats["computed"])),
        stats["flops"],
        note,
        Program(sum(new.values()), resident_bytes() - resident),
    )


def reference_none(setting: Setting) -> Arm:
    return accelerated_arm(setting, "reference", None)


def fused_none(setting: Setting) -> Arm:
    return accelerated_arm(setting, "fused", None)


def fused_float32(setting: Setting) -> Arm:
    """Other weights, by one part in 2^13, which half precision cannot hold; for its time only."""
    policy = copy.deepcopy(setting.policy)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1 + 2**-13)
    return accelerated_arm(setting, "fused", None, policy, "weights packed in float32")


def fused_uniform(setting: Setting) -> Arm:
    return accelerated_arm(setting, "fused", setting.cache, note="quadratic spacing")


def fused_ddim(setting: Setting) -> Arm:
    return accelerated_arm(setting, "fused", None, setting.short)


def fused_calibrated(config: type, note: str, **settings: Any) -> Callable[[Setting], Arm]:
    """A cache with a calibration of the row's policy."""

    def arm(setting: Setting) -> Arm:
        cache = config(steps=setting.steps, **settings)
        plan = resolve(setting.policy, cache, setting.calibration)
        steps = summarize(plan, setting.policy).equivalent_steps
        return accelerated_arm(setting, "fused", plan, note=f"{note}; FLOPs of {steps:.1f} steps")

    return arm


def first_layer_plan(setting: Setting) -> CachePlan:
    """What cache-dit's F1B0 does: the same steps, and the first layer in every step."""
    plan = setting.plan
    mask = plan.mask.copy()
    mask[:, : len(setting.policy.sizes.branches)] = True
    return replace(plan, mask=mask, method="uniform, first layer always")


def fused_first_layer(setting: Setting) -> Arm:
    return accelerated_arm(setting, "fused", first_layer_plan(setting), note="cache-dit's plan")


def reusing(setting: Setting, n_steps: int) -> Arm:
    """One computed step and n_steps - 1 in which everything is reused: a probe, not an arm."""
    policy = setting.policy.with_sampler(setting.policy.config.sampler.with_steps(steps=n_steps))
    return accelerated_arm(setting, "fused", UniformConfig(steps=1), policy)
