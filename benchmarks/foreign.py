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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Run = Callable[[], Tensor]
N_BLOCKS = 12
HEAD = 64
CAPTION = 32


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="benchmarks/foreign.py", description=__doc__)
    words.add_argument("--steps", type=int, default=10, help="calls of the model in a generation")
    words.add_argument("--heads", type=int, default=2, help="of width 64; more: a larger model")
    words.add_argument("--size", type=int, default=16, help="of the latent; tokens are (size/2)^2")
    words.add_argument("--rounds", type=int, default=10, help="timed generations of each arm")
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--out", type=Path, default=Path("multirun/foreign"), help="folder")
    return words


def model_of(heads: int, size: int) -> Any:
    """A PixArt with random weights (DiT reads its first block, which cache-dit takes away)."""
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=4,
        num_layers=N_BLOCKS,
        sample_size=size,
        patch_size=2,
        cross_attention_dim=HEAD * heads,
        caption_channels=CAPTION,
        use_additional_conditions=False,
    )
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.03)
    return model.eval()


def generation(model: Any, steps: int, size: int, before: Callable[[int], None]) -> Tensor:
    """Steps of an invented sampler."""
    x = torch.randn((1, 4, size, size), generator=torch.Generator().manual_seed(1))
    words = torch.randn((1, 8, CAPTION), generator=torch.Generator().manual_seed(2))
    settings = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    with torch.inference_mode():
        for step in range(steps):
            before(step)
            time = torch.full((1,), 900 - 50 * step)
            x = x - 0.05 * model(x, words, time, **settings, return_dict=False)[0]
    return x


def plain(options: argparse.Namespace) -> Run:
    model = model_of(options.heads, options.size)
    return lambda: generation(model, options.steps, options.size, lambda step: None)


def ours(cache: Any, kind: str) -> Callable[[argparse.Namespace], Run]:
    def make(options: argparse.Namespace) -> Run:
        from accel import attach

        model = model_of(options.heads, options.size)
        attached = attach(model, ["transformer_blocks"], options.steps, cache, kind=kind)

        def run() -> Tensor:
            attached.begin()
            return generation(model, options.steps, options.size, attached.step)

        return run

    return make


def taylorseer(options: argparse.Namespace) -> Run:
    """Diffusers' TaylorSeer of order 0 on the last block, the others skipped."""
    from diffusers import TaylorSeerCacheConfig
    from diffusers.models.cache_utils import CacheMixin

    model = model_of(options.heads, options.size)
    last = N_BLOCKS - 1
    config = TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=1,
        max_order=0,
        taylor_factors_dtype=torch.float32,
        skip_predict_identifiers=[rf"transformer_blocks\.(?!{last}$)\d+"],
        cache_identifiers=[rf"transformer_blocks\.{last}"],
    )
    model.__class__ = type("Cachable", (CacheMixin, type(model)), {})
    model.enable_cache(config)

    def run() -> Tensor:
        model._reset_stateful_cache()
        with model.cache_context("generation"):
            return generation(model, options.steps, options.size, lambda step: None)

    return run


def cache_dit(options: argparse.Namespace) -> Run:
    """cache-dit's DBCache, F1B0, with every second step in its static mask."""
    from cache_dit import (
        BlockAdapter,
        DBCacheConfig,
        ForwardPattern,
        enable_cache,
        refresh_context,
    )

    model = model_of(options.heads, options.size)
    adapter = BlockAdapter(
        transformer=model,
        blocks=model.transformer_blocks,
        forward_pattern=ForwardPattern.Pattern_3,
        check_forward_pattern=False,
    )
    config = DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=0,
        enable_separate_cfg=False,
        num_inference_steps=options.steps,
        steps_computation_mask=[1 - step % 2 for step in range(options.steps)],
        steps_computation_policy="static",
    )
    enable_cache(adapter, cache_config=config)

    def run() -> Tensor:
        refresh_context(model, cache_config=config)
        return generation(model, options.steps, options.size, lambda step: None)

    return run


def arms() -> dict[str, Callable[[argparse.Namespace], Run]]:
    """Name -> how to make it; one that is compared with follows the one it is compared with."""
    from accel import IntervalConfig

    even = {"start": 0, "interval": 2}
    return {
        "plain": plain,
        "attach, everything computed": ours(None, "delta"),
        "diffusers TaylorSeer, order 0": taylorseer,
        "attach, output of the stack": ours(IntervalConfig(**even), "output"),
        "cache-dit, F1B0": cache_dit,
        "attach, blocks after the first": ours(IntervalConfig(**even, first_block=1), "delta"),
    }


BESIDE = {
    "attach, output of the stack": "diffusers TaylorSeer, order 0",
    "attach, blocks after the first": "cache-dit, F1B0",
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Median milliseconds of each arm, its speed beside its counterpart, and the largest gap."""
    from benchmarks.rounds import interleave

    made: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for name, make in arms().items():
        try:
            made[name] = make(options)
        except ImportError as error:
            missing[name] = str(error)
    outputs = {name: run() for name, run in made.items()}
    times = interleave(made, options.rounds, warmup=2, seed=0)
    ms = {name: float(np.median(values)) for name, values in times.items()}
    per_site = (ms["attach, everything computed"] - ms["plain"]) * 1e3 / options.steps / N_BLOCKS
    return {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "missing": missing,
        "ms": ms,
        "overhead": {
            "us_per_site": per_site,
            "share": ms["attach, everything computed"] / ms["plain"] - 1,
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
    lines = ["| arm | p50 ms | times as fast as plain | beside | ratio |", "|---|---|---|---|---|"]
    for name, ms in found["ms"].items():
        beside = found["beside"].get(name)
        words = f"{beside['other']} | {beside['speed_ratio']:.2f}" if beside else " | "
        lines.append(f"| {name} | {ms:.1f} | {found['ms']['plain'] / ms:.2f} | {words} |")
    lines += [f"| {name} | | | {reason} | |" for name, reason in found["missing"].items()]
    over = found["overhead"]
    lines.append(
        f"\neverything computed: {over['us_per_site']:.1f} us a block, {over['share']:+.1%}, "
        f"{'bit-equal' if over['bit_equal'] else 'NOT bit-equal'}"
    )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option."""
    from runners.store import write_whole

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
