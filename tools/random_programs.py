"""Random programs, plans and quantised layers, in the engine's C code and beside torch."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from .chaos.records import Row

FINDING, AGREES, REFUSED, RAN = "finding", "as torch", "plan refused", "huge values"
FAR = 1e-2  # relative: a quantised layer rounds once more where the order of a sum differs
ROUNDED = 0.1  # relative: of weights and inputs of every layer in bfloat16


def _policy(rng: random.Random) -> Any:
    import torch

    from policies import DiffusionPolicy, NetworkConfig, PolicyConfig, SamplerConfig, UnetConfig

    obs, act, horizon, steps = rng.randrange(1, 40), rng.randrange(1, 12), 8, rng.randrange(1, 7)
    sampler = SamplerConfig(num_train_timesteps=steps, steps=steps)
    if rng.random() < 0.3:
        dims = [8 * rng.randrange(1, 4), 8 * rng.randrange(1, 4)]
        sizes: Any = UnetConfig(
            act, horizon, 2, "global", obs, dims, 8, n_groups=4, oa_step_convention=True
        )
    else:
        heads = rng.randrange(1, 4)
        sizes = NetworkConfig(
            *(act, act, horizon, rng.randrange(1, 4)),
            cond_dim=obs,
            n_layer=rng.randrange(1, 4),
            n_head=heads,
            n_emb=heads * 8 * rng.randrange(1, 4),
            causal_attn=rng.random() < 0.7,
        )
    torch.manual_seed(rng.randrange(2**30))
    return DiffusionPolicy(PolicyConfig(sizes, obs, act, 2, sampler=sampler)).eval()


def _cache(rng: random.Random, policy: Any) -> Any:
    from accel import DeepCacheConfig, IntervalConfig, TaylorConfig, UniformConfig

    steps, is_unet = policy.n_inference_steps, policy.sizes.family == "unet"
    found = [
        None,
        UniformConfig(steps=rng.randrange(1, steps + 1)),
        TaylorConfig(warm_up=rng.randrange(1, 3), interval=rng.randrange(1, 4)),
    ]
    if not is_unet:
        found += [IntervalConfig(start=1, interval=2, first_block=0)]
        found += [DeepCacheConfig(compute_interval=rng.randrange(1, 4))]
    return rng.choice(found)


def hostile_plan(rng: random.Random, policy: Any) -> Any:
    """A plan with random cells, coefficients and biases, which now and then reach too far.

    Raises:
        PlanError: they do, and the plan says so.
    """
    import numpy as np

    from accel import UniformConfig, resolve

    made = resolve(policy, UniformConfig(steps=1))
    numbers, (steps, sites) = np.random.default_rng(rng.randrange(2**30)), made.mask.shape
    rows, slots = max(1, steps + rng.choice((0, 0, 0, 0, 1, -1, 1000))), rng.randrange(1, 5)
    mask = numbers.random((rows, sites)) < rng.random()
    mask[0] |= rng.random() < 0.9
    alpha = numbers.normal(size=(rows, sites, slots)) * 0.3
    if rng.random() < 0.8:  # else more values than are stored
        alpha[np.arange(slots) >= np.cumsum(mask, axis=0)[..., None]] = 0
    if rng.random() < 0.1:
        alpha[-1, -1] = rng.choice((np.nan, np.inf, 1e30))
    return replace(made, mask=mask, alpha=rng.choice((None, alpha)), sampler=None)


def program(rng: random.Random) -> tuple[str, str]:
    """(outcome, what is wrong) of one random program beside the reference engine."""
    import torch

    from accel import FusedConfig, PlanError, accelerated

    policy, rows = _policy(rng), rng.choice((1, 2, 3, 4, 9, 17))
    obs, within = _scaled(rng, torch.randn(rows, policy.n_obs_steps, policy.obs_dim))
    seeds = [rng.randrange(2**30) for _ in range(rows)]
    found = []
    try:
        cache = hostile_plan(rng, policy) if rng.random() < 0.4 else _cache(rng, policy)
        precision = rng.choice(("exact", "exact", "bf16"))
        with _bfloat(tiles=rng.random() < 0.5):
            for engine in (FusedConfig(backend="native", precision=precision), "reference"):
                with accelerated(policy, cache, engine=engine) as fast:
                    found.append(fast.act(obs, [torch.Generator().manual_seed(s) for s in seeds]))
    except PlanError:
        return (FINDING, "the reference engine alone refuses a plan") if found else (REFUSED, "")
    rows_of_plan = getattr(cache, "n_steps", policy.n_inference_steps)
    if rows_of_plan != policy.n_inference_steps:
        return FINDING, f"a plan of {rows_of_plan} steps ran in {policy.n_inference_steps}"
    return _compared(*found, ROUNDED if precision == "bf16" else FAR) if within else (RAN, "")


@contextmanager
def _bfloat(tiles: bool) -> Iterator[None]:
    """Layers in bfloat16 run in C everywhere, in pairs or in tiles, if need be number by number."""
    from accel.engines import backend
    from accel.kernels import native

    loaded: Any = native.library()
    loaded.tiles_work()  # where the CPU has them, this asks for them
    with (
        patch.object(backend, "bfloat_cpu", lambda: True),
        patch.object(loaded, "bfloat_works", lambda: 1),
        patch.object(loaded, "tiles_work", lambda: int(tiles)),
    ):
        yield


def layer(rng: random.Random) -> tuple[str, str]:
    """(outcome, what is wrong) of one random quantised layer in C beside torch's."""
    import torch
    from torch import nn

    from accel import DuQuantConfig, collect, quantize

    inputs, outputs = 16 * rng.randrange(1, 20), rng.randrange(1, 90)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=rng.random() < 0.7)).eval()
    config = DuQuantConfig(
        include=(".*",),
        min_features=1,
        weight_bits=rng.choice((4, 8)),
        activation_bits=8,
        block=16,
        method=rng.choice(("duquant", "smooth", "rtn")),
    )
    x = torch.randn(rng.randrange(1, 40), inputs)
    statistics = collect(model, [(x,)], 1)
    x, within = _scaled(rng, x)
    found = [
        quantize(model, statistics, config, backend=backend).model(x).detach()
        for backend in ("auto", "torch")
    ]
    return _compared(*found) if within else (RAN, "")


def _scaled(rng: random.Random, x: Any) -> tuple[Any, bool]:
    """Values now and then far from what a policy sees; whether results can be compared then."""
    scale = rng.choice((1.0, 1.0, 1.0, 0.0, 1e6, 1e30))
    return x * scale, scale <= 1


def _compared(found: Any, expected: Any, far: float = FAR) -> tuple[str, str]:
    if not expected.isfinite().all():  # a hostile coefficient, beyond which torch's norms overflow
        return RAN, ""
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-6))
    return (AGREES, "") if error < far else (FINDING, f"{error:.2g} from torch")


def child(first: int, last: int, seconds: float = float("inf"), threads: int = 1) -> Row:
    """Do them all, on so many threads, until the time is over."""
    import torch

    from accel.kernels.native import is_compiled

    torch.set_num_threads(threads)
    assert is_compiled(), "there is no compiled code"
    row, seed, until = Row("", first, last), first, time.monotonic() + seconds
    while seed < last and time.monotonic() < until:
        what = layer if seed % 2 else program
        row.count(seed, *what(random.Random(f"sanitize {seed}")))
        seed += 1
    row.last = seed
    return row
