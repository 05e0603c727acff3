"""python benchmarks/foreign.py: a PixArt of diffusers, cached by `attach` and by other libraries.

All arms compute the same steps: every second one. One of ours reuses what the stack puts out, as
diffusers' TaylorSeer of order 0 does; one what all blocks but the first add, as cache-dit does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as a script, it comes before benchmarks

import torch
from torch import Tensor


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="benchmarks/foreign.py", description=__doc__)
    words.add_argument("--steps", type=int, default=10, help="calls of the model in a generation")
    words.add_argument("--heads", type=int, default=2, help="of width 64; more: a larger model")
    words.add_argument("--size", type=int, default=16, help="of the latent; tokens are (size/2)^2")
    words.add_argument("--rounds", type=int, default=10, help="timed generations of each arm")
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--out", type=Path, default=Path("multirun/foreign"), help="folder")
    return words


def cpu_ms(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """CPU milliseconds of each arm; on one thread, wall time if idle."""
    from benchmarks.rounds import interleave

    times = interleave(runs, rounds, warmup=0, seed=0)
    return {name: np.array(found.cpu_ms) for name, found in times.items()}


class Empty(torch.nn.Module):
    """A block that does nothing, so that the time of calling it is all there is."""

    def forward(self, hidden: Tensor, a: int, b: int) -> Tensor:
        return hidden


def overhead_us(n_blocks: int = 100, repeats: int = 50) -> float:
    """What `attach` adds to a block that is computed, least of many calls, in CPU time."""
    from accel import attach

    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList(Empty() for _ in range(n_blocks))
    cache, x = attach(model, ["blocks"], 1, streams=("hidden",)), torch.ones(1)

    def call_us(prepare: Callable[[], None]) -> float:
        least = float("inf")
        for _ in range(repeats):
            prepare()
            start = time.process_time_ns()
            for block in model.blocks:
                block(x, a=1, b=2)
            least = min(least, (time.process_time_ns() - start) / 1e3 / n_blocks)
        return least

    def begin() -> None:
        cache.begin()
        cache.step(0)

    on = call_us(begin)
    cache.disable()
    return on - call_us(lambda: None)


def overhead_share(options: argparse.Namespace) -> dict[str, float]:
    """What `attach` adds to a generation whose every block is computed, on one and the same model.

    Two models with equal weights differ by some per cent for the place of their weights in memory,
    which would drown it. Rounds of a pair in random order, with the cache on and off.

    Returns:
        {"share": median over rounds of on / off - 1, "low", "high": its 95 % bootstrap interval}
    """
    from accel import attach
    from benchmarks.foreign_arms import generation, model_of

    model = model_of(options.heads, options.size)
    cache = attach(model, ["transformer_blocks"], options.steps)
    steps, rounds = (options.steps, options.size), 4 * options.rounds

    def on() -> None:
        cache.enable()
        generation(model, *steps, cache.step)
        cache.disable()

    cache.disable()
    times = cpu_ms({"on": on, "off": lambda: generation(model, *steps, lambda step: None)}, rounds)
    ratios = times["on"] / times["off"] - 1
    random = np.random.default_rng(0)
    drawn = np.median(random.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"share": float(np.median(ratios)), "low": float(low), "high": float(high)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Median CPU milliseconds of each arm, and how it does beside its counterpart."""
    from benchmarks.foreign_arms import BESIDE, arms
    from runners.machine import cpu, load

    made: dict[str, Callable[[], Tensor]] = {}
    missing: dict[str, str] = {}
    for name, make in arms().items():
        try:
            made[name] = make(options)
        except ImportError as error:
            missing[name] = str(error)
    outputs = {name: run() for name, run in made.items()}
    times = cpu_ms(made, options.rounds)
    ms = {name: float(np.median(values)) for name, values in times.items()}
    return {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "machine": {"cpu": cpu(), "load": load()},
        "missing": missing,
        "ms": ms,
        "overhead": {
            "us_per_block": overhead_us(),
            **overhead_share(options),
            "bit_equal": torch.equal(outputs["attach, everything computed"], outputs["plain"]),
        },
        "beside": {
            name: {
                "other": other,
                "speed_ratio": ms[other] / ms[name],
                "largest_difference": float((outputs[name] - outputs[other]).abs().max()),
            }
            for name, other in BESIDE.items()
            if other in ms
        },
    }


def render(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| arm | CPU ms | times as fast as plain | beside | ratio |", "|---|---|---|---|---|"]
    for name, ms in found["ms"].items():
        beside = found["beside"].get(name)
        words = f"{beside['other']} | {beside['speed_ratio']:.2f}" if beside else " | "
        lines.append(f"| {name} | {ms:.1f} | {found['ms']['plain'] / ms:.2f} | {words} |")
    lines += [f"| {name} | | | {reason} | |" for name, reason in found["missing"].items()]
    over = found["overhead"]
    lines.append(
        f"\neverything computed: {over['us_per_block']:.1f} us a block, {over['share']:+.1%} "
        f"[{over['low']:+.1%}, {over['high']:+.1%}] of a generation, "
        f"{'bit-equal' if over['bit_equal'] else 'NOT bit-equal'}"
    )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option."""
    from runners.store.folder import write_whole

    options = parser().parse_args(argv)
    for name, least in {"steps": 2, "heads": 1, "size": 2, "rounds": 2, "threads": 1}.items():
        if getattr(options, name) < least:
            message = f"--{name} must be at least {least}, got {getattr(options, name)}"
            print(f"error: {message}", file=sys.stderr)
            return 2
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "warning")
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    found = measure(options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "foreign.json", json.dumps(found, indent=1))
    write_whole(options.out / "foreign.md", render(found))
    print(render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
