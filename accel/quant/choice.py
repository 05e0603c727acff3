"""Which kernel runs each quantised layer, and how long it takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codes import top
from .kernels import KERNELS, Entry, Kernel, build, candidates
from .linear import QuantisedLinear

log = logging.getLogger(__name__)

FLIPPED = 1e-3  # share of codes on the edge between two that may differ by 1
CHECKED = 64  # rows of a check at least: of fewer, one flipped code looks like a wrong kernel
ROUNDS = 31
LONGEST_S = 0.5  # after which further rounds are left out
FEWEST = 5

_timed: dict[Any, np.ndarray] = {}  # of this process, thus of this CPU


def settle(
    layers: Mapping[str, QuantisedLinear], rows: int, table: Mapping[str, Entry] = KERNELS
) -> dict[str, str]:
    """{layer: kernel}: the first of a table that can run the layer and gives its own numbers.

    Nothing here is timed: the same layers get the same kernels on the same machine, always.

    Args:
        layers: by name.
        rows: tokens of a call.
        table: of kernels.

    Raises:
        ValueError: there is none.
    """
    found = {}
    for name, layer in layers.items():
        able = (k for k in candidates(layer, table) if exact(k, layer, rows, table))
        kernel = next(able, None)
        if kernel is None:
            raise ValueError(f"none of {', '.join(table)} can run layer {name} here")
        found[name] = kernel
    return found


def inputs(layer: QuantisedLinear, rows: int) -> Tensor:
    """(rows, K), normal once the layer has smoothed them, with an outlier.

    Smoothing divides a channel by what it was fitted to: of a channel that was hardly used, any
    other number would be an outlier that decides the codes of the whole token.
    """
    x = torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= 10
    x = x.to(layer.codes.device)
    return x if layer.inverse_smooth is None else x / layer.inverse_smooth.to(x)


@torch.inference_mode()
def exact(name: str, layer: QuantisedLinear, rows: int, table: Mapping[str, Entry]) -> bool:
    """Whether an integer kernel gives the layer's own numbers; other kinds never do."""
    if table[name].kind != "integer":
        return True
    x = inputs(layer, max(rows, CHECKED))
    expected, made = layer.plain(x), build(name, layer, len(x), table)(x)
    step = 3 / top(min(layer.spec.activation_bits, 8))  # of codes, of a token's rms
    good = bool((made - expected).norm() <= FLIPPED**0.5 * step * expected.norm())
    if not good:
        log.warning("kernel %s is wrong for a layer (%s), not used", name, layer.extra_repr())
    return good


def timed(
    kernels: Sequence[str], layer: QuantisedLinear, rows: int, table: Mapping[str, Entry] = KERNELS
) -> np.ndarray:
    """(rounds, kernels) microseconds of a call, once for layers of one shape on as many threads."""
    spec = replace(layer.spec, source="")
    key = (spec, rows, torch.get_num_threads(), id(table), *kernels)
    if key not in _timed:
        made = [build(name, layer, rows, table) for name in kernels]
        _timed[key] = measured(made, inputs(layer, rows))
        log.info("%s (%s): %s us", kernels, layer.extra_repr(), np.median(_timed[key], axis=0))
    return _timed[key]


@torch.inference_mode()
def measured(kernels: Sequence[Kernel], x: Tensor) -> np.ndarray:
    """(rounds, kernels) microseconds.

    Rounds are interleaved, so that other work on the machine slows all of them alike.
    """
    times = np.zeros((ROUNDS, len(kernels)))
    began = time.perf_counter()
    for i in range(-2, ROUNDS):  # the first two are for caches and lazy work
        if i >= FEWEST and time.perf_counter() - began > LONGEST_S:
            return times[:i]
        for j, kernel in enumerate(kernels):
            start = time.perf_counter_ns()
            out = kernel(x)
            if out.is_cuda:
                torch.cuda.synchronize()
            if i >= 0:
                times[i, j] = (time.perf_counter_ns() - start) / 1000
    return times


def times(
    layers: Mapping[str, QuantisedLinear],
    chosen: Mapping[str, str],
    rows: int,
    table: Mapping[str, Entry] = KERNELS,
) -> list[dict[str, Any]]:
    """Of each shape and kernel, next to its weight in float32: what quantisation gains a layer.

    Returns:
        [{"shape": (N, K), "method", "weight_bits", "kernel", "rows", "layers": how many,
        "us", "fp32_us": medians of a call}]
    """
    found: dict[Any, dict[str, Any]] = {}
    for name, layer in layers.items():
        kernel, spec = chosen[name], replace(layer.spec, source="")
        if (spec, kernel) not in found:
            medians = np.median(timed([kernel, "fp32"], layer, rows, table), axis=0)
            found[spec, kernel] = {
                "shape": [spec.out_features, spec.in_features],
                "method": spec.method,
                "weight_bits": spec.weight_bits,
                "kernel": kernel,
                "rows": rows,
                "layers": 0,
                "us": round(float(medians[0]), 2),
                "fp32_us": round(float(medians[1]), 2),
            }
        found[spec, kernel]["layers"] += 1
    return list(found.values())
