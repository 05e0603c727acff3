"""The fused program in C: compiled by the machine's own compiler on first use, for one CPU thread.

At batch 1 a denoising step is some fifty small operations; one call per query leaves only their
arithmetic. Rows of a batch never meet, so a batch is split over threads that do not wait for each
other.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, Structure, c_double, c_float, c_int32, c_int64, c_void_p
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno")
STORE, GELU, ADD = range(3)


class Linear(Structure):
    """Mirrors native.c."""

    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("half", c_int32),
    ]


class Site(Structure):
    """Mirrors native.c."""

    _fields_ = [
        ("op", c_int32),
        ("layer", c_int32),
        ("eps", c_float),
        ("norm_weight", c_void_p),
        ("norm_bias", c_void_p),
        ("first", Linear),
        ("second", Linear),
    ]


SIZES = (
    *("dim", "heads", "hidden", "live", "lead", "width", "memory", "layers", "batch", "steps"),
    *("observed", "observed_from"),
)


class Net(Structure):
    """Mirrors native.c."""

    _fields_ = [
        *((name, c_int32) for name in SIZES),
        ("sees", c_void_p),
        ("sees_memory", c_void_p),
        ("sites", POINTER(Site)),
        ("embed", Linear),
        ("head", Linear),
        ("eps", c_float),
        *(
            (name, c_void_p)
            for name in (
                "norm_weight",
                "norm_bias",
                "position",
                "time_tokens",
                "time_keys",
                "program",
                "coefficients",
                "biases",
                "sampler",
            )
        ),
        ("clip", c_float),
        ("norm_probe", c_int32),
        ("accumulates", c_int32),
        ("limit", c_double),
        ("most", c_double),
        ("rescale", c_void_p),
        ("time_change", c_void_p),
        ("always", c_void_p),
    ]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled code, checked against torch; None where there is no compiler, with a log line.

    It is kept under $XDG_CACHE_HOME (or ~/.cache)/skipstep, by the hash of source, flags and CPU;
    where that cannot be written, it is compiled once per process.
    """
    try:
        loaded = _load()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.info("the fused engine runs through torch here, its C code was not compiled: %s", error)
        return None
    loaded.scratch_floats.restype = c_int64
    if not _agrees(loaded):
        log.warning("compiled linears compute something else than torch here: torch is used")
        return None
    return loaded


def _load() -> ctypes.CDLL:
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]  # CC="ccache gcc" is usual
    if shutil.which(command[0]) is None:
        raise FileNotFoundError("no C compiler (cc, or what $CC names)")
    version = subprocess.run([*command, "--version"], capture_output=True, check=True).stdout
    key = hashlib.sha256(SOURCE.read_bytes() + repr((FLAGS, command[1:])).encode() + version)
    key.update(_cpu())
    name = f"native-{key.hexdigest()[:16]}.so"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "skipstep" / name
    if path.exists():
        return ctypes.CDLL(str(path))
    with _beside(path) as folder:
        made = Path(folder) / name
        command += [*FLAGS, "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        loaded = ctypes.CDLL(str(made))  # from here on it is needed in memory only
        if made.parent.parent == path.parent:
            os.replace(made, path)
        return loaded


def _beside(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder from which a file can be renamed to `path`, else one anywhere."""
    try:
        if not path.is_absolute():  # no home, or a relative $XDG_CACHE_HOME
            raise FileNotFoundError(f"no such cache folder: {path.parent}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=path.parent)
    except OSError as error:
        log.info("the fused engine is compiled anew in every process: %s", error)
        return tempfile.TemporaryDirectory()


def _cpu() -> bytes:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return repr((platform.machine(), platform.processor(), sorted(flags))).encode()


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
            loaded.linear(ctypes.byref(layer), 9, *pointers, then)
            if not torch.allclose(out[:, : len(weight)], right, atol=1e-5):
                return False
    return True


class Packed:
    """Makes C structures, and holds the memory that they point to.

    Weights that half precision represents exactly are stored in it, which loses nothing and reads
    half as much; `round_weights` stores all of them so, but in layers where one would overflow.
    """

    def __init__(self, loaded: ctypes.CDLL, round_weights: bool = False) -> None:
        self.panel, self.half_works = loaded.panel_width(), bool(loaded.half_works())
        self.round_weights = round_weights
        self.held: list[Tensor] = []

    def pointer(self, tensor: Tensor) -> int:
        """Address of the values, contiguous, as float32, int32, or half or double as they are."""
        kind = torch.float32 if tensor.is_floating_point() else torch.int32
        kind = tensor.dtype if tensor.dtype in (torch.float16, torch.float64) else kind
        self.held.append(tensor.detach().to(kind).contiguous())
        return int(self.held[-1].data_ptr())

    def linear(self, weight: Tensor, bias: Tensor) -> Linear:
        """(out, in) -> panels of `panel` outputs, each (in, panel), padded by zeros."""
        outputs, inputs = weight.shape
        missing = -outputs % self.panel
        values, half = weight.detach(), weight.detach().half()
        exact = bool((half.float() == values).all())
        rounds = self.round_weights and bool(half.isfinite().all())
        chosen = half if self.half_works and (exact or rounds) else values
        panels = F.pad(chosen, (0, 0, 0, missing)).view(-1, self.panel, inputs).transpose(1, 2)
        padded_bias = F.pad(bias.detach(), (0, missing))
        return Linear(
            self.pointer(panels),
            self.pointer(padded_bias),
            inputs,
            outputs,
            chosen.dtype == torch.float16,
        )

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.held)


@cache
def threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="skipstep")


os.register_at_fork(after_in_child=threads.cache_clear)  # a child has the pool without its threads


class Part:
    """The compiled query for some rows of a batch, with its own scratch memory."""

    def __init__(self, loaded: ctypes.CDLL, net: Any, n_slots: int) -> None:
        self.call, self.net = loaded.query, ctypes.byref(net)
        self.scratch = torch.zeros(loaded.scratch_floats(self.net, n_slots))
        self.trace = torch.zeros(net.steps, dtype=torch.int32)

    def __call__(self, x: Tensor, keys: Tensor, noise: Tensor, obs: Tensor) -> None:
        pointers = (c_void_p(t.data_ptr()) for t in (x, keys, noise, obs, self.scratch, self.trace))
        self.call(self.net, *pointers)
