"""python benchmarks/latency.py: a query of the policy, every way of running it in turn."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

QUICK = {"rounds": 3, "warmup": 1, "batch": [1], "width": [256], "threads": [1]}
FULL = {"rounds": 30, "warmup": 3, "batch": [1, 8], "width": [256, 768], "threads": [1, 2]}


def parser(arms: Sequence[str]) -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="benchmarks/latency.py", description=__doc__)
    words.add_argument("--batch", type=int, nargs="+", help="rows of a query (1 8)")
    words.add_argument("--width", type=int, nargs="+", help="256 is the shipped policy (256 768)")
    words.add_argument("--threads", type=int, nargs="+", help="of torch (1 2)")
    words.add_argument("--layers", type=int, default=8)
    words.add_argument("--steps", type=int, default=10, help="S of the caches and of ddim")
    words.add_argument("--rounds", type=int, help="timed calls of each arm (30)")
    words.add_argument("--warmup", type=int, help="rounds before them (3)")
    words.add_argument("--seed", type=int, default=0, help="of the order of arms")
    words.add_argument("--arms", nargs="+", default=list(arms), metavar="ARM", help=", ".join(arms))
    words.add_argument("--quick", action="store_true", help="one small row, 3 rounds")
    words.add_argument("--profile", action="store_true", help="top operators of a computed step")
    words.add_argument("--out", type=Path, default=Path("multirun/latency"), help="folder")
    return words


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option, before anything is measured."""
    from benchmarks.plot import write_plot
    from benchmarks.profiling import print_profile
    from benchmarks.row import ARMS, RowConfig, measure_row
    from benchmarks.setting import Unavailable
    from benchmarks.table import render
    from runners.store.atomic import write_whole
    from runners.store.folder import dump

    options = parser(tuple(ARMS)).parse_args(argv)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    try:
        configs = [
            RowConfig(
                batch=batch,
                width=width,
                threads=threads,
                n_layer=options.layers,
                steps=options.steps,
                rounds=options.rounds,
                warmup=options.warmup,
                seed=options.seed,
                arms=options.arms,
            )
            for width, batch, threads in itertools.product(
                options.width, options.batch, options.threads
            )
        ]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for config in configs:
        if options.profile:
            print_profile(config)
        rows.append(measure_row(config))
        options.out.mkdir(parents=True, exist_ok=True)
        result = {"rows": rows, "machine": machine()}
        write_whole(options.out / "latency.json", dump(result))
    print(render(rows))
    try:
        write_plot(rows, options.out / "latency.html")
        print(f"plot   {options.out / 'latency.html'}")
    except Unavailable as error:
        print(f"plot   not available: {error}")
    print(f"values {options.out / 'latency.json'}")
    return 0


def machine() -> dict[str, object]:
    """What the numbers depend on besides the options."""
    import torch

    from runners.jobs.versions import versions
    from runners.machine import cpu, load

    found: dict[str, object] = dict(versions())
    for name in ("scipy", "diffusers", "cache-dit"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {
        **found,
        "cpu": cpu(),
        "load": load(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def run() -> int:
    try:
        return main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted: the rows that were finished are in the folder", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
