"""Which kernel runs each quantised layer: the fastest of those that compute the right thing."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kernels import KERNELS, Entry, Kernel, build, refusal
from .linear import QuantisedLinear

log = logging.getLogger(__name__)

EXACT = ("native", "torch", "onednn")
TOLERANCE = 1e-3  # relative; codes on the edge between two may differ by 1
ROUNDS = 31
CLEARLY = 0.95  # share of the time of the one before

_timed: dict[Any, str] = {}  # of this process, thus of this CPU


def choose(
    layers: Mapping[str, QuantisedLinear],
    rows: int,
    allowed: Sequence[str] = EXACT,
    policy_batch: int = 1,
    chosen: Mapping[str, str] | None = None,
    table: Mapping[str, Entry] = KERNELS,
) -> dict[str, str]:
    """{layer: kernel}: for each layer the fastest of the allowed kernels that can run it.

    Every layer is checked against its own formula; layers of one shape are timed once, on one set
    of threads. A run stores the result and passes it as `chosen` when it goes on, since timings
    change and kernels outside `EXACT` change what is computed.

    Args:
        layers: by name.
        rows: tokens of a call.
        allowed: names in `table`.
        policy_batch: rows that the policy is asked at once.
        chosen: an earlier result; what it names is only checked.
        table: of kernels.

    Raises:
        ValueError: `chosen` names a kernel that cannot run its layer here, or no allowed one can.
    """
    found = {}
    for name, layer in layers.items():
        if chosen is not None and name in chosen:
            build(chosen[name], layer, rows, policy_batch, table)
            found[name] = chosen[name]
            continue
        able = {
            kernel: build(kernel, layer, rows, policy_batch, table)
            for kernel in allowed
            if refusal(kernel, layer, policy_batch, table) is None
        }
        able = {k: run for k, run in able.items() if exact(k, run, layer, rows, table)}
        if not able:
            raise ValueError(f"none of {', '.join(allowed)} can run layer {name} here")
        spec = replace(layer.spec, source="")
        key = (spec, rows, torch.get_num_threads(), id(table), *able)
        if key not in _timed:
            _timed[key] = fastest(able, inputs(layer, rows))
        found[name] = _timed[key]
    return found


def inputs(layer: QuantisedLinear, rows: int) -> Tensor:
    """(rows, K), normal, with an outlier."""
    x = torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= 10
    return x.to(layer.codes.device)


@torch.inference_mode()
def exact(
    name: str, kernel: Kernel, layer: QuantisedLinear, rows: int, table: Mapping[str, Entry]
) -> bool:
    """Whether an integer kernel gives the layer's own numbers; other kinds never do."""
    if table[name].kind != "integer":
        return True
    x = inputs(layer, rows)
    expected = layer(x)
    good = bool((kernel(x) - expected).norm() <= TOLERANCE * expected.norm())
    if not good:
        log.warning("kernel %s is wrong for a layer (%s), not used", name, layer.extra_repr())
    return good


@torch.inference_mode()
def fastest(kernels: Mapping[str, Kernel], x: Tensor) -> str:
    """The name of the fastest; an earlier one stays unless a later one is clearly faster.

    Rounds are interleaved, and kernels compared within each, so that other work on the machine
    slows all of them alike.
    """
    times = np.zeros((ROUNDS, len(kernels)))
    for i in range(-2, ROUNDS):  # the first two are for caches and lazy work
        for j, kernel in enumerate(kernels.values()):
            start = time.perf_counter_ns()
            out = kernel(x)
            if out.is_cuda:
                torch.cuda.synchronize()
            if i >= 0:
                times[i, j] = time.perf_counter_ns() - start
    best = 0
    for j in range(1, len(kernels)):
        if np.median(times[:, j] / times[:, best]) < CLEARLY:
            best = j
    names = list(kernels)
    log.info("%s for %s: us %s", names, tuple(x.shape), np.median(times, axis=0) / 1000)
    return names[best]
