"""python benchmarks/foreign.py: models of diffusers, cached by `attach` and by other libraries.

Arms that stand beside each other compute the same steps: every second one, or, where what the first
block adds decides, about half of them. One of ours reuses what the stack puts out, as diffusers'
TaylorSeer of order 0 does; the others what all blocks but the first add, as cache-dit does.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np
import torch
from torch import Tensor

from accel import FirstBlockConfig, IntervalConfig, attach
from benchmarks import libraries
from benchmarks.foreign_models import SUBJECTS, Subject
from benchmarks.libraries import Run
from benchmarks.rounds import beside, interleave
from benchmarks.writing import check, keep, machine, markdown

STACK, AFTER, DECIDES = (
    "attach, output of the stack",
    "attach, blocks after the first",
    "attach, the first block decides",
)
BESIDE = {
    STACK: ("diffusers TaylorSeer, order 0",),
    AFTER: ("cache-dit, F1B0",),
    DECIDES: ("diffusers FirstBlockCache", "cache-dit, FBCache"),
}


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="benchmarks/foreign.py", description=__doc__)
    words.add_argument("--model", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    words.add_argument("--steps", type=int, default=10, help="calls of the model in a generation")
    words.add_argument("--heads", type=int, default=2, help="of width 64; more: a larger model")
    words.add_argument("--size", type=int, default=16, help="of the latent; tokens are (size/2)^2")
    words.add_argument("--rounds", type=int, default=10, help="timed generations of each arm")
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--out", type=Path, default=Path("multirun/foreign"), help="folder")
    return words


class Bench:
    """One model, made anew for every arm."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options, self.steps = name, options, options.steps

    def subject(self) -> Subject:
        return SUBJECTS[self.name](self.options.heads, self.options.size)

    def attached(self, cache: Any, kind: str, it: Subject) -> Run:
        streams = {"streams": it.streams, "outputs": it.outputs}
        made = attach(it.model, [it.blocks], self.steps, cache, kind=kind, **streams)

        def run() -> Tensor:
            made.begin()
            return it.generate(self.steps, made.step)

        return run

    def other(self, cache: Callable[[Subject], Callable[[Run], Run]], it: Subject) -> Run:
        return cache(it)(lambda: it.generate(self.steps))

    def threshold(self) -> float:
        """With which our first block computes about half of the steps, the first one among them."""
        low, high = 1e-4, 1.0
        for _ in range(12):
            middle, it = (low * high) ** 0.5, self.subject()
            with it.computed() as count:
                self.attached(FirstBlockConfig(threshold=middle, cool_down=0), "delta", it)()
            if count[0] == self.steps // 2:
                return middle
            low, high = (middle, high) if count[0] > self.steps // 2 else (low, middle)
        return middle

    def arms(self) -> dict[str, Callable[[Subject], Run]]:
        """Name -> how to make it; one that is compared with comes before ours."""
        even, threshold, steps = {"start": 0, "interval": 2}, self.threshold(), self.steps
        mask = [1 - step % 2 for step in range(steps)]
        decides = FirstBlockConfig(threshold=threshold, cool_down=0)
        around: dict[str, Callable[[Subject], Callable[[Run], Run]]] = {
            "plain": lambda it: lambda run: run,
            "diffusers TaylorSeer, order 0": lambda it: libraries.taylorseer(
                it.model, it.blocks, 2
            ),
            "cache-dit, F1B0": lambda it: libraries.cache_dit(
                it.model, it.blocks, mask, it.pattern
            ),
            "diffusers FirstBlockCache": lambda it: libraries.first_block(it.model, threshold),
            "cache-dit, FBCache": lambda it: libraries.cache_dit_first_block(
                it.model, it.blocks, threshold, steps, it.pattern
            ),
        }
        ours: dict[str, tuple[Any, str]] = {
            "attach, everything computed": (None, "delta"),
            STACK: (IntervalConfig(**even), "output"),
            AFTER: (IntervalConfig(**even, first_block=1), "delta"),
            DECIDES: (decides, "delta"),
        }
        return {
            **{n: lambda it, c=cache: self.other(c, it) for n, cache in around.items()},
            **{n: lambda it, c=c, k=k: self.attached(c, k, it) for n, (c, k) in ours.items()},
        }


class Empty(torch.nn.Module):
    """A block that does nothing, so that the time of calling it is all there is."""

    def forward(self, hidden: Tensor, a: int, b: int) -> Tensor:
        return hidden


def overhead_us(n_blocks: int = 100, repeats: int = 50) -> float:
    """What `attach` adds to a block that is computed, least of many calls, in CPU time."""
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList(Empty() for _ in range(n_blocks))
    cache, x = attach(model, ["blocks"], 1, streams=("hidden",)), torch.ones(1)

    def call_us(prepare: Callable[[], Any]) -> float:
        least = float("inf")
        for _ in range(repeats):
            prepare()
            start = time.process_time_ns()
            for block in model.blocks:
                block(x, a=1, b=2)
            least = min(least, (time.process_time_ns() - start) / 1e3 / n_blocks)
        return least

    on = call_us(lambda: (cache.begin(), cache.step(0)))
    cache.disable()
    return on - call_us(lambda: None)


def overhead_share(bench: Bench) -> tuple[float, list[float]]:
    """What `attach` adds to a generation whose every block is computed, on one and the same model.

    Two models with equal weights differ by some per cent for the place of their weights in memory,
    which would drown it.

    Returns:
        median over rounds of on / off - 1, and its 95 % bootstrap interval.
    """
    it, steps = bench.subject(), bench.steps
    cache = attach(it.model, [it.blocks], steps, streams=it.streams, outputs=it.outputs)

    def on() -> None:
        cache.enable()
        it.generate(steps, cache.step)
        cache.disable()

    cache.disable()
    calls = {"on": on, "off": lambda: it.generate(steps)}
    times = interleave(calls, 4 * bench.options.rounds)
    found = drawn(np.array(times["on"].cpu_ms) / np.array(times["off"].cpu_ms) - 1)
    return found[0], found[1:]


def drawn(ratios: np.ndarray) -> list[float]:
    """Median of the rounds' ratios, and its 95 % bootstrap interval."""
    medians = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    return [float(np.median(ratios)), *np.percentile(medians, [2.5, 97.5]).tolist()]


def measure(bench: Bench) -> dict[str, Any]:
    """Times of each arm of a model, and how it does beside its counterparts."""
    made, missing = dict[str, Run](), dict[str, str]()
    outputs, computed = dict[str, Tensor](), dict[str, int]()
    for name, make in bench.arms().items():
        it = bench.subject()
        with it.computed() as count:
            try:
                made[name] = make(it)
            except ImportError as error:
                missing[name] = str(error)
                continue
            outputs[name] = made[name]()
        computed[name] = count[0]
    times = interleave(made, bench.options.rounds)
    share, interval = overhead_share(bench)
    everything = torch.equal(outputs["attach, everything computed"], outputs["plain"])
    return {
        "missing": missing,
        "arms": {
            name: {**beside(times["plain"], t, bench.options.threads), "computed": computed[name]}
            for name, t in times.items()
        },
        "overhead": {
            **{"us_per_block": overhead_us(), "share": share, "interval": interval},
            "bit_equal": everything,
        },
        "beside": {
            name: {
                other: {
                    "speed_ratio": drawn(np.divide(times[other].cpu_ms, times[name].cpu_ms)),
                    "same_steps": computed[other] == computed[name],
                    "largest_difference": float((outputs[name] - outputs[other]).abs().max()),
                }
                for other in others
                if other in made
            }
            for name, others in BESIDE.items()
        },
    }


def render(models: Mapping[str, Any]) -> str:
    """Markdown."""
    rows, below = [], []
    for model, found in models.items():
        for name, arm in found["arms"].items():
            pairs = found["beside"].get(name, {})
            said = "; ".join(_ratio(other, pair) for other, pair in pairs.items())
            times = (f"{arm['cpu_p50_ms']:.1f}", f"{arm['cpu_ratio']:.2f}", str(arm["computed"]))
            rows.append((model, name, *times, said))
        rows += [(model, n, "", "", "", why) for n, why in found["missing"].items()]
        over = found["overhead"]
        low, high = over["interval"]
        below.append(
            f"{model}, everything computed: {over['us_per_block']:.1f} us a block, "
            f"{over['share']:+.1%} [{low:+.1%}, {high:+.1%}] of a generation, "
            f"{'bit-equal' if over['bit_equal'] else 'NOT bit-equal'}"
        )
    header = ("model", "arm", "CPU ms", "times as fast as plain", "steps", "faster than, ratio")
    return markdown(header, rows) + "\n\n" + "\n".join(below)


def _ratio(other: str, pair: Mapping[str, Any]) -> str:
    ratio, low, high = pair["speed_ratio"]
    steps = "" if pair["same_steps"] else ", OTHER STEPS"
    return f"{other} {ratio:.2f} [{low:.2f}, {high:.2f}]{steps}"


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option."""
    options = parser().parse_args(argv)
    try:
        check(options, steps=2, heads=1, size=2, rounds=2, threads=1)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    models = {name: measure(Bench(name, options)) for name in options.model}
    settings = {key: str(value) for key, value in vars(options).items()}
    found = {"settings": settings, "machine": machine(), "models": models}
    keep(options.out, "foreign", found, render(models))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
