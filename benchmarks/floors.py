"""python -m benchmarks.floors: how far from the least possible time is a call of each network?

A call cannot take less than its multiply-adds take in registers, nor less than reading its weights
once. Both are measured here, on one thread of this machine, in the same rounds as the calls
(floor.c): what the core multiplies at most in the arithmetic that an engine uses, and how fast it
reads as many bytes as that engine's weights are. `--page` prints the tables of docs/engines.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np
import torch

from accel import FusedConfig, resolve
from accel.engines import ENGINES, resolve_engine
from accel.kernels.compiled import Code, load
from accel.kernels.native import FLAGS
from accel.quant.native_linear import works
from benchmarks import dits, unets
from benchmarks.rounds import interleave
from benchmarks.writing import check, keep, markdown
from policies import DiffusionPolicy, load_policy
from runners.machine import cpu
from runners.machine import load as machine_load

SOURCE = Path(__file__).with_name("floor.c")
RECORDS = Path("results/studies/latency")
ROUNDS_IN_REGISTERS = 1_000_000  # tens of milliseconds
BYTES_READ = 400_000_000
LINE = 16  # floats of a line of the cache
KINDS = ("floats", "integers", "bfloats")  # of multiply-adds, functions of floor.c
CODES = ("W8A8", "W4A8")
ARITHMETIC = {"bf16": "bfloats", **dict.fromkeys(CODES, "integers")}  # the others are in floats


@dataclass(frozen=True)
class Case:
    """A network in one precision.

    Attributes:
        network, precision: as the table names them.
        query: runs it once, for one row.
        calls: network calls of a query.
        flops: of a call of one row, what is computed once a query shared out over its calls.
        weight_bytes: of its linear layers and convolutions, as they are stored.
    """

    network: str
    precision: str
    query: Callable[[], Any]
    calls: int
    flops: float
    weight_bytes: int

    @property
    def arithmetic(self) -> str:
        """Which multiply-adds it uses."""
        return ARITHMETIC.get(self.precision, "floats")


def policies(steps: int, widest: int) -> dict[str, DiffusionPolicy]:
    """{name: policy}: the networks of the table, under so many steps."""
    sizes = {name: dims for name, dims in unets.SIZES.items() if max(dims or [0]) <= widest}
    kitchen = load_policy("checkpoints/kitchen").with_sampler("ddpm", steps)
    return {
        "transformer, 8 x 256 (checkpoints/kitchen)": kitchen,
        **{f"UNet, {name}": unets.sized(dims, steps) for name, dims in sizes.items()},
        **{f"DiT, {name}": dits.sized(*s, steps) for name, s in dits.SIZES.items()},
    }


def cases(network: str, policy: DiffusionPolicy) -> Iterator[Case]:
    """Of one network, in every precision that runs here."""
    runs: dict[str, tuple[DiffusionPolicy, FusedConfig]] = {
        name.removeprefix("fused, ").replace("fused", "exact"): (policy, config)
        for name, config in unets.engines().items()
        if isinstance(config, FusedConfig)
    }
    for name in CODES if works() else ():
        coded = unets.coded(policy, unets.CODES[f"fused, {name}"]).model
        runs[name] = (coded, FusedConfig())
    for precision, (model, config) in runs.items():
        plan = resolve(model, None)
        engine = ENGINES["fused"][1](model, plan, resolve_engine(config, model))
        cond = model.encode(torch.zeros(1, model.n_obs_steps, model.obs_dim))
        query = partial(engine.denoise, cond, [torch.Generator().manual_seed(0)])
        query()
        calls = model.n_inference_steps
        flops = engine.flops(plan.mask) / calls
        yield Case(network, precision, query, calls, flops, engine.weight_bytes)


class Core:
    """What one core does at most, see floor.c."""

    def __init__(self, most_bytes: int) -> None:
        self.library = load(Code(SOURCE, (), FLAGS, (*KINDS, "reading")))
        for name in (*KINDS, "reading"):
            getattr(self.library, name).restype = ctypes.c_int64
        self.memory = torch.ones(most_bytes // 4 + LINE)

    def multiply(self, kind: str) -> int:
        """Multiply-adds that were made in registers."""
        return int(getattr(self.library, kind)(ctypes.c_int64(ROUNDS_IN_REGISTERS)))

    def read(self, size: int) -> int:
        """Bytes that were read, `size` of them again and again."""
        start = self.memory.data_ptr() + -self.memory.data_ptr() % (4 * LINE)
        times = max(BYTES_READ // size, 1)
        sizes = (ctypes.c_int64(n) for n in (size, times))
        return int(self.library.reading(ctypes.c_void_p(start), *sizes))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """{"rows": one for each case} and where they were measured."""
    torch.set_num_threads(1)
    before, rows = machine_load(), []
    for network, policy in policies(options.steps, options.widest).items():
        found = list(cases(network, policy))
        core = Core(max(case.weight_bytes for case in found))
        kinds = sorted({case.arithmetic for case in found})
        calls: dict[str, Callable[[], Any]] = {case.precision: case.query for case in found}
        calls |= {kind: partial(core.multiply, kind) for kind in kinds}
        sizes = {f"{case.weight_bytes} bytes": case.weight_bytes for case in found}
        calls |= {name: partial(core.read, size) for name, size in sizes.items()}
        times = {n: t.cpu_ms for n, t in interleave(calls, options.rounds, warmup=2).items()}
        for case in found:
            rows.append(judged(case, core, times))
    words = {name: getattr(options, name) for name in ("rounds", "steps")}
    return {"rows": rows, **words, "cpu": cpu(), "load": [before, machine_load()]}


def judged(case: Case, core: Core, times: dict[str, list[float]]) -> dict[str, Any]:
    """A case beside its floors; a ratio is the median over rounds of the rounds' ratios."""
    call = np.array(times[case.precision]) / case.calls
    made, read = core.multiply(case.arithmetic), core.read(case.weight_bytes)
    arithmetic = np.array(times[case.arithmetic]) / made * case.flops / 2
    reading = np.array(times[f"{case.weight_bytes} bytes"]) / read * case.weight_bytes
    ratios = call / np.maximum(arithmetic, reading)
    return {
        "network": case.network,
        "precision": case.precision,
        "ms": float(np.median(call)),
        "mflops": case.flops / 1e6,
        "weight_mb": case.weight_bytes / 1e6,
        "arithmetic_ms": float(np.median(arithmetic)),
        "reading_ms": float(np.median(reading)),
        "over_floor": float(np.median(ratios)),
        "over_floor_interval": [float(q) for q in np.percentile(ratios, (10, 90))],
    }


def render(found: dict[str, Any]) -> str:
    """A table with a line for each network and precision."""
    header = ["network", "precision", "ms a call", "MFLOP", "MB of weights"]
    header += ["multiplying, ms", "reading, ms", "over the floor"]
    lines = []
    for row in found["rows"]:
        low, high = row["over_floor_interval"]
        lines.append(
            [
                row["network"],
                row["precision"],
                f"{row['ms']:.2f}",
                f"{row['mflops']:.0f}",
                f"{row['weight_mb']:.1f}",
                f"{row['arithmetic_ms']:.2f}",
                f"{row['reading_ms']:.2f}",
                f"{row['over_floor']:.1f}x [{low:.1f}, {high:.1f}]",
            ]
        )
    loads = f"load {found['load'][0]:.1f} before, {found['load'][1]:.1f} after"
    where = f"{found['cpu']}, one thread, batch 1, {found['rounds']} rounds, {loads}."
    return markdown(header, lines) + "\n\n" + where


def page() -> int:
    """Print the tables of every machine that was measured."""
    for path in sorted(RECORDS.glob("floors_*.json")):
        print("\n" + render(json.loads(path.read_text())))
    return 0


def main(argv: Sequence[str]) -> int:
    """0, or 2: a wrong option."""
    words = argparse.ArgumentParser(prog="python -m benchmarks.floors", description=__doc__)
    words.add_argument("--rounds", type=int, default=15)
    words.add_argument("--steps", type=int, default=10, help="network calls of a query")
    words.add_argument("--widest", type=int, default=1024, help="UNets of no more channels")
    words.add_argument("--out", type=Path, default=Path("multirun/floors"), help="folder")
    words.add_argument("--page", action="store_true", help="print what was measured, and no more")
    options = words.parse_args(argv)
    if options.page:
        return page()
    try:
        check(options, rounds=1, steps=1, widest=1)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = measure(options)
    keep(options.out, "floors", found, render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
