"""One row of the benchmark: one policy, batch size and thread count, all arms in one process."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from accel import BacConfig, HashAbConfig, query_flops
from runners.machine import cpu, load

from . import others, ours
from .linears import Linears
from .quantised import fused_duquant
from .rounds import beside, interleave
from .setting import HEAD_WIDTH, Arm, Setting, Unavailable, observations, policy_of_width
from .stock import stock, stock_ddim

log = logging.getLogger(__name__)

ARMS: dict[str, Callable[[Setting], Arm]] = {
    "stock": stock,
    "reference none": ours.reference_none,
    "fused none": ours.fused_none,
    "fused none, float32": ours.fused_float32,
    "fused uniform": ours.fused_uniform,
    "fused bac": ours.fused_calibrated(BacConfig, "first layers more often"),
    "fused bac, block layout": ours.fused_calibrated(BacConfig, "as published", layout="block"),
    "fused hash_ab": ours.fused_calibrated(HashAbConfig, "first layers more often, forecasts"),
    "fused duquant W8A8": fused_duquant(8),
    "fused duquant W4A8": fused_duquant(4),
    "fused ddim": ours.fused_ddim,
    "fused first-layer": ours.fused_first_layer,
    "stock ddim": stock_ddim,
    "torch.compile": others.compiled,
    "cache-dit": others.cache_dit,
    "diffusers TaylorSeer": others.taylorseer,
    "diffusers FirstBlock": others.first_block,
    "diffusers PAB, FasterCache": others.attention_only,
}
FOREIGN = {name for name, make in ARMS.items() if make.__module__ == others.__name__}
BASELINES = ("stock", "reference none")
LINEAR_REPEATS = 10


@dataclass(frozen=True)
class RowConfig:
    """What a row measures; arms are names in `ARMS`."""

    batch: int = 1
    width: int = 256
    threads: int = 1
    n_layer: int = 8
    steps: int = 10
    rounds: int = 30
    warmup: int = 3
    seed: int = 0
    arms: Sequence[str] = tuple(ARMS)

    def __post_init__(self) -> None:
        at_least = {"batch": 1, "threads": 1, "n_layer": 1, "steps": 2, "rounds": 2, "warmup": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")
        for name in self.arms:
            if name not in ARMS:
                raise ValueError(f"--arms must be among {', '.join(ARMS)}, got {name!r}")
        if not set(self.arms) & set(BASELINES):
            raise ValueError(
                f"--arms must name {' or '.join(BASELINES)} to compare with, "
                f"got {', '.join(self.arms)}"
            )
        if self.threads > (cores := os.cpu_count() or 1):
            raise ValueError(f"--threads must be at most {cores} (the cores), got {self.threads}")
        if self.width < HEAD_WIDTH or self.width % HEAD_WIDTH:
            raise ValueError(f"--width must be a multiple of {HEAD_WIDTH}, got {self.width}")

    @property
    def title(self) -> str:
        return f"batch {self.batch}, width {self.width}, threads {self.threads}"


def build(make: Callable[[Setting], Arm], setting: Setting, foreign: bool) -> Arm | str:
    """An arm that has run once, or why there is none."""
    try:
        arm = make(setting)
        arm.query()
    except Unavailable as error:
        return str(error)
    except Exception as error:
        if not foreign:  # another library may fail in any way, ours may not
            raise
        log.debug("arm failed", exc_info=True)
        return f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
    return arm


def measure_row(config: RowConfig) -> dict[str, Any]:
    """Everything about one row, ready for JSON.

    Returns:
        {"setting", "arms": {name: percentiles, ratio to the baseline with its interval, FLOPs,
        deviation of the actions from the baseline's, or {"unavailable": reason}}, "step",
        "program"}.
    """
    setting = setting_of(config)
    with setting.stack:
        return _measure(config, setting)


def setting_of(config: RowConfig) -> Setting:
    """The policy and its observations; torch's threads are set."""
    torch.set_num_threads(config.threads)
    policy = policy_of_width(config.width, config.n_layer)
    return Setting(policy, observations(policy, config.batch), config.steps)


def _measure(config: RowConfig, setting: Setting) -> dict[str, Any]:
    policy = setting.policy
    built: dict[str, Arm | str] = {}
    build_s: dict[str, float] = {}
    for name in config.arms:
        start = time.perf_counter()
        built[name] = build(ARMS[name], setting, name in FOREIGN)
        build_s[name] = time.perf_counter() - start
    arms = {name: arm for name, arm in built.items() if isinstance(arm, Arm)}
    baseline = next(name for name in (*BASELINES, *arms) if name in arms)
    linears = Linears(policy, config.batch)
    n_steps = policy.n_inference_steps
    probes = {n: ours.reusing(setting, n) for n in (n_steps, n_steps // 2)}

    def all_linears() -> None:
        for _ in range(LINEAR_REPEATS):
            linears()

    calls: dict[str, Callable[[], Any]] = {name: arm.query for name, arm in arms.items()}
    calls |= {f"reusing {n}": probe.query for n, probe in probes.items()}
    calls["linears"] = all_linears
    before = load()
    times = interleave(calls, config.rounds, config.warmup, config.seed, config.title)
    after, samples = load(), {name: np.array(t.wall_ms) for name, t in times.items()}
    plain = query_flops(policy, setting.full())
    scale = policy.normalizer.params_dict["action"]["scale"]
    expected = arms[baseline].query()
    found: dict[str, Any] = {}
    for name, arm in built.items():
        if isinstance(arm, str):
            found[name] = {"unavailable": arm}
            continue
        found[name] = {
            **beside(times[baseline], times[name], config.threads),
            "flops_share": arm.flops / plain,
            "live_flops_share": arm.live_flops / plain,
            "deviation": float(((arm.query() - expected) * scale).detach().abs().max()),
            "build_s": build_s[name],
            "note": arm.note,
            "samples_ms": [round(x, 4) for x in times[name].wall_ms],
            "samples_cpu_ms": [round(x, 4) for x in times[name].cpu_ms],
        }
    return {
        "setting": {
            "batch": config.batch,
            "width": config.width,
            "threads": config.threads,
            "n_layer": policy.sizes.n_layer,
            "n_head": policy.sizes.n_head,
            "sampler": f"{policy.config.sampler.kind}-{n_steps}",
            "steps": config.steps,
            "rounds": config.rounds,
            "baseline": baseline,
            "cpu": cpu(),
            "load": {"before": before, "after": after, "cores": os.cpu_count()},
        },
        "arms": found,
        "step": step_costs(samples, n_steps, config.steps),
        "program": program_costs(setting, arms, samples, build_s),
    }


def step_costs(samples: dict[str, np.ndarray], n_steps: int, steps: int) -> dict[str, float]:
    """What one step costs, from differences of whole queries of the same rounds.

    A fully cached step is (query of N steps, one computed - query of N/2, one computed) / (N/2); a
    computed one costs (query without cache - query with S computed) / (N - S) more.
    """
    half = n_steps // 2
    linears = float(np.median(samples["linears"])) / LINEAR_REPEATS
    cached = float(np.median(samples[f"reusing {n_steps}"] - samples[f"reusing {half}"]))
    costs = {"linears_ms": linears, "cached_us": 1000 * cached / (n_steps - half)}
    if {"fused none", "fused uniform"} <= samples.keys():
        more = float(np.median(samples["fused none"] - samples["fused uniform"]))
        computed = costs["cached_us"] / 1000 + more / (n_steps - steps)
        costs |= {
            "computed_ms": computed,
            "computed_over_linears": computed / linears,
            "query_over_linears": float(np.median(samples["fused none"])) / (n_steps * linears),
        }
    return costs


def program_costs(
    setting: Setting,
    arms: dict[str, Arm],
    samples: dict[str, np.ndarray],
    build_s: dict[str, float],
) -> dict[str, float] | None:
    """Memory and build time of the fused program without cache.

    It was built and asked twice in `build_s`; two of its later queries are subtracted.
    """
    name = "fused none"
    if name not in arms or (program := arms[name].program) is None:
        return None
    two = 2 * float(np.median(samples[name])) / 1000
    return {
        "bytes": program.bytes,
        "rss_bytes": program.rss_bytes,
        "weight_bytes": ours.weight_bytes(setting.policy),
        "build_s": max(0.0, build_s[name] - two),
    }
