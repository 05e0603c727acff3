"""The fused program in C: compiled by the machine's own compiler on first use.

At batch 1 a denoising step is some fifty small operations; one call per query leaves only their
arithmetic. Rows of a batch never meet, so a batch is split over threads that do not wait for each
other. The columns of one row's layers are divided with one more thread, see helper.h.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ctypes import c_int64, c_void_p
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skipstep.holding import Held

from .compiled import Code, CompileError, load
from .packed import ADD, GELU, STORE, Packed

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native.c")
HEADERS = tuple(
    SOURCE.with_name(f"{name}.h")
    for name in (
        *("vector", "attention", "helper", "bfloat", "tiles", "rotation", "quantised", "linear"),
        *("unet", "dit", "calls"),
    )
)
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-pthread")
SYMBOLS = (
    *("query", "operate", "scratch_floats", "linear", "linear_floats", "panel_width", "half_works"),
    *("integers_work", "packing_depth", "packing_group", "packing_offset", "helper_counts"),
    *("bfloat_works", "tiles_work"),
)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled code, checked against torch; None where there is no compiler, with a log line.

    It is kept under $XDG_CACHE_HOME (or ~/.cache)/skipstep, see `compiled`.
    """
    try:
        loaded = load(Code(SOURCE, HEADERS, FLAGS, SYMBOLS))
    except FileNotFoundError as error:
        log.info("the fused engine runs through torch here, its C code was not compiled: %s", error)
        return None
    except (OSError, CompileError, ValueError) as error:
        log.warning("the fused engine runs through torch here, its C code is not used: %s", error)
        return None
    loaded.scratch_floats.restype = loaded.linear_floats.restype = c_int64
    if not _agrees(loaded):
        log.warning("compiled linears compute something else than torch here: torch is used")
        return None
    return loaded


def is_compiled() -> bool:
    """Whether there is compiled code."""
    return library() is not None


def half_works() -> bool:
    """Whether it loads weights of half precision."""
    loaded = library()
    return loaded is not None and bool(loaded.half_works())


@cache
def bfloat_cpu() -> bool:
    """Whether this CPU says that it has the instruction for products of bfloat16."""
    info = Path("/proc/cpuinfo")
    return info.exists() and " avx512_bf16" in info.read_text()


def bfloat_works() -> bool:
    """Whether the compiled code uses it; without, it does the same number by number."""
    loaded = library()
    return loaded is not None and bool(loaded.bfloat_works())


def _agrees(loaded: ctypes.CDLL) -> bool:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, before = (
        torch.randn(shape, generator=generator) for shape in ((9, 24), (40, 24), (40,), (9, 96))
    )
    for values in (weight, weight.half().float()):  # the second is stored in half precision
        packed = Packed(loaded)  # it holds what the layer points to
        layer = packed.linear(values, bias)
        plain = torch.nn.functional.linear(x, values, bias)
        expected = {
            STORE: plain,
            GELU: torch.nn.functional.gelu(plain),
            ADD: plain + before[:, : len(weight)],
        }
        for then, right in expected.items():
            out = before.clone()
            pointers = c_void_p(x.data_ptr()), 24, c_void_p(out.data_ptr()), 96
            loaded.linear(ctypes.byref(layer), 9, *pointers, then, None)
            if not torch.allclose(out[:, : len(weight)], right, atol=1e-5):
                return False
    return True


def helper_counts() -> dict[str, int]:
    """What the helper did since the library was loaded, see helper.h.

    Returns:
        pieces of the layers that were divided; those of_helper; how often it was left, since it was
        held up or on the same CPU; and how often it was woken.
    """
    counts = (c_int64 * 4)()
    loaded = library()
    if loaded is not None:
        loaded.helper_counts(counts)
    return dict(zip(("pieces", "of_helper", "left", "wakes"), counts, strict=True))


@cache
def threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="skipstep")


def portions(batch: int, n: int) -> list[slice]:
    """The rows of a batch in `n` runs that are as long as each other, or one longer.

    Example:
        >>> portions(5, 2)
        [slice(0, 2, None), slice(2, 5, None)]
    """
    edges = [round(i * batch / n) for i in range(n + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def together(calls: Sequence[Callable[[], None]], workers: int) -> None:
    """Make calls that do not meet: in this thread, or by `workers` others."""
    if workers == 1:
        for call in calls:
            call()
    else:
        list(threads(workers).map(lambda call: call(), calls))


def helped(batch: int) -> bool:
    """Whether the columns of its layers are divided with another thread: a row that has `threads`.

    On a single CPU two threads would take turns.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return batch == 1 and torch.get_num_threads() > 1 and (cpus or 1) > 1


@contextmanager
def one_thread() -> Iterator[None]:
    """With more, torch sums a row in an order that depends on its place in the batch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


os.register_at_fork(after_in_child=threads.cache_clear)  # a child has the pool without its threads


class Part:
    """The compiled query for some rows of a batch, with its own scratch memory.

    helped: see `helped`.
    """

    def __init__(self, loaded: ctypes.CDLL, net: Any, n_slots: int, helped: bool) -> None:
        self.call, self.net, self.helped = loaded.query, ctypes.byref(net), helped
        self.scratch = torch.zeros(loaded.scratch_floats(self.net, n_slots))
        self.trace = torch.zeros(net.steps, dtype=torch.int32)

    def __call__(
        self, x: Tensor, keys: Tensor, noise: Tensor, obs: Tensor, held: Held | None = None
    ) -> None:
        pointers = (c_void_p(t.data_ptr()) for t in (x, keys, noise, obs, self.scratch, self.trace))
        known = () if held is None else (held.table, held.weight)
        kept: list[Any] = [c_void_p(t.data_ptr()) for t in known] or [None, None]
        self.call(self.net, *pointers, self.helped, *kept)
