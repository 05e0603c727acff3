"""python benchmarks/foreign.py: a PixArt of diffusers, cached by `attach` and by other libraries.

All arms compute the same steps: every second one. One of ours reuses what the stack puts out, as
diffusers' TaylorSeer of order 0 does; one what all blocks but the first add, as cache-dit does.
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

from accel import IntervalConfig, attach
from benchmarks import libraries
from benchmarks.libraries import Run
from benchmarks.rounds import beside, interleave
from benchmarks.writing import check, keep, machine, markdown

N_BLOCKS, HEAD, CAPTION = 12, 64, 32
BLOCKS = "transformer_blocks"
BESIDE = {
    "attach, output of the stack": "diffusers TaylorSeer, order 0",
    "attach, blocks after the first": "cache-dit, F1B0",
}


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="benchmarks/foreign.py", description=__doc__)
    words.add_argument("--steps", type=int, default=10, help="calls of the model in a generation")
    words.add_argument("--heads", type=int, default=2, help="of width 64; more: a larger model")
    words.add_argument("--size", type=int, default=16, help="of the latent; tokens are (size/2)^2")
    words.add_argument("--rounds", type=int, default=10, help="timed generations of each arm")
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--out", type=Path, default=Path("multirun/foreign"), help="folder")
    return words


def model_of(options: argparse.Namespace) -> Any:
    """A PixArt with random weights (DiT reads its first block, which cache-dit takes away)."""
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=options.heads,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=4,
        num_layers=N_BLOCKS,
        sample_size=options.size,
        patch_size=2,
        cross_attention_dim=HEAD * options.heads,
        caption_channels=CAPTION,
        use_additional_conditions=False,
    )
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.03)
    return model.eval()


def generation(
    model: Any, options: argparse.Namespace, before: Callable[[int], Any] = lambda step: None
) -> Tensor:
    """Steps of an invented sampler."""
    shape = (1, 4, options.size, options.size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    words = torch.randn((1, 8, CAPTION), generator=torch.Generator().manual_seed(2))
    settings = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    with torch.inference_mode():
        for step in range(options.steps):
            before(step)
            at = torch.full((1,), 900 - 50 * step)
            x = x - 0.05 * model(x, words, at, **settings, return_dict=False)[0]
    return x


def attached(options: argparse.Namespace, cache: Any, kind: str) -> Run:
    model = model_of(options)
    made = attach(model, [BLOCKS], options.steps, cache, kind=kind)

    def run() -> Tensor:
        made.begin()
        return generation(model, options, made.step)

    return run


def arms(options: argparse.Namespace) -> dict[str, Callable[[], Run]]:
    """Name -> how to make it; one that is compared with comes before ours."""
    even = {"start": 0, "interval": 2}

    def other(cache: Callable[[Any], Callable[[Run], Run]]) -> Run:
        model = model_of(options)
        return cache(model)(lambda: generation(model, options))

    mask = [1 - step % 2 for step in range(options.steps)]
    return {
        "plain": lambda: other(lambda model: lambda run: run),
        "attach, everything computed": lambda: attached(options, None, "delta"),
        BESIDE["attach, output of the stack"]: lambda: other(
            lambda model: libraries.taylorseer(model, BLOCKS, 2)
        ),
        "attach, output of the stack": lambda: attached(options, IntervalConfig(**even), "output"),
        BESIDE["attach, blocks after the first"]: lambda: other(
            lambda model: libraries.cache_dit(model, BLOCKS, mask)
        ),
        "attach, blocks after the first": lambda: attached(
            options, IntervalConfig(**even, first_block=1), "delta"
        ),
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


def overhead_share(options: argparse.Namespace) -> tuple[float, list[float]]:
    """What `attach` adds to a generation whose every block is computed, on one and the same model.

    Two models with equal weights differ by some per cent for the place of their weights in memory,
    which would drown it.

    Returns:
        median over rounds of on / off - 1, and its 95 % bootstrap interval.
    """
    model = model_of(options)
    cache = attach(model, [BLOCKS], options.steps)

    def on() -> None:
        cache.enable()
        generation(model, options, cache.step)
        cache.disable()

    cache.disable()
    times = interleave({"on": on, "off": lambda: generation(model, options)}, 4 * options.rounds)
    ratios = np.array(times["on"].cpu_ms) / np.array(times["off"].cpu_ms) - 1
    drawn = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    return float(np.median(ratios)), np.percentile(drawn, [2.5, 97.5]).tolist()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times of each arm, and how it does beside its counterpart."""
    made, missing = dict[str, Run](), dict[str, str]()
    for name, make in arms(options).items():
        try:
            made[name] = make()
        except ImportError as error:
            missing[name] = str(error)
    outputs = {name: run() for name, run in made.items()}
    times = interleave(made, options.rounds)
    found = {name: beside(times["plain"], t, options.threads) for name, t in times.items()}
    ms = {name: row["cpu_p50_ms"] for name, row in found.items()}
    share, interval = overhead_share(options)
    return {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "machine": machine(),
        "missing": missing,
        "arms": found,
        "overhead": {
            **{"us_per_block": overhead_us(), "share": share, "interval": interval},
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


def render(found: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = []
    for name, arm in found["arms"].items():
        pair = found["beside"].get(name)
        words = (pair["other"], f"{pair['speed_ratio']:.2f}") if pair else ("", "")
        rows.append((name, f"{arm['cpu_p50_ms']:.1f}", f"{arm['cpu_ratio']:.2f}", *words))
    rows += [(name, "", "", reason, "") for name, reason in found["missing"].items()]
    over = found["overhead"]
    low, high = over["interval"]
    return (
        markdown(("arm", "CPU ms", "times as fast as plain", "beside", "ratio"), rows)
        + f"\n\neverything computed: {over['us_per_block']:.1f} us a block, {over['share']:+.1%} "
        f"[{low:+.1%}, {high:+.1%}] of a generation, "
        f"{'bit-equal' if over['bit_equal'] else 'NOT bit-equal'}"
    )


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
    found = measure(options)
    keep(options.out, "foreign", found, render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
