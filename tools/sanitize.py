"""The engine's C code under AddressSanitizer and UBSan: random programs, plans, quantised layers.

    python -m tools.sanitize --seeds 0:500

The code is compiled by the compiler that the engine uses, with the sanitizers, once for each width
of vectors that this machine has, and then does what the engine has it do. Each seed is a network, a
sampler, a cache and a batch, or a quantised layer; what is computed is compared with torch too.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
SANITIZERS = "-fsanitize=address,undefined -fno-omit-frame-pointer -g"
WIDTHS = {
    "C": "-mno-avx512f -mno-avx2 -mno-fma -mno-avx",
    "AVX2": "-mno-avx512f",
    "AVX-512": "",
}
REPORT = ("ERROR: AddressSanitizer", "runtime error:")
FAR = 1e-2  # relative: a quantised layer rounds once more where the order of a sum differs


def widths() -> list[str]:
    """Those of this machine."""
    flags = Path("/proc/cpuinfo").read_text()
    return [w for w in WIDTHS if w == "C" or {"AVX2": " avx2", "AVX-512": " avx512f"}[w] in flags]


def _policy(rng: random.Random) -> Any:
    import torch

    from policies import DiffusionPolicy, NetworkConfig, PolicyConfig, SamplerConfig, UnetConfig

    obs, act, horizon, steps = rng.randrange(1, 40), rng.randrange(1, 12), 8, rng.randrange(1, 7)
    sampler = SamplerConfig(num_train_timesteps=steps, steps=steps)
    if rng.random() < 0.3:
        dims = [8 * rng.randrange(1, 4), 8 * rng.randrange(1, 4)]
        sizes: Any = UnetConfig(
            act, horizon, 2, "global", obs, dims, 8, n_groups=4, oa_step_convention=True
        )
    else:
        heads = rng.randrange(1, 4)
        sizes = NetworkConfig(
            *(act, act, horizon, rng.randrange(1, 4)),
            cond_dim=obs,
            n_layer=rng.randrange(1, 4),
            n_head=heads,
            n_emb=heads * 8 * rng.randrange(1, 4),
            causal_attn=rng.random() < 0.7,
        )
    torch.manual_seed(rng.randrange(2**30))
    return DiffusionPolicy(PolicyConfig(sizes, obs, act, 2, sampler=sampler)).eval()


def _cache(rng: random.Random, policy: Any) -> Any:
    from accel import DeepCacheConfig, IntervalConfig, TaylorConfig, UniformConfig

    steps, is_unet = policy.n_inference_steps, policy.sizes.family == "unet"
    found = [
        None,
        UniformConfig(steps=rng.randrange(1, steps + 1)),
        TaylorConfig(warm_up=rng.randrange(1, 3), interval=rng.randrange(1, 4)),
    ]
    if not is_unet:
        found += [IntervalConfig(start=1, interval=2, first_block=0)]
        found += [DeepCacheConfig(compute_interval=rng.randrange(1, 4))]
    return rng.choice(found)


def program(rng: random.Random) -> str:
    """One random program; how far it is from the reference engine, if that is too far."""
    import torch

    from accel import FusedConfig, accelerated

    policy, rows = _policy(rng), rng.randrange(1, 5)
    cache = _cache(rng, policy)
    obs = torch.randn(rows, policy.n_obs_steps, policy.obs_dim)
    seeds = [rng.randrange(2**30) for _ in range(rows)]
    found = []
    for engine in (FusedConfig(backend="native"), "reference"):
        with accelerated(policy, cache, engine=engine) as fast:
            found.append(fast.act(obs, [torch.Generator().manual_seed(s) for s in seeds]))
    return _far(*found)


def layer(rng: random.Random) -> str:
    """One random quantised layer in C; how far it is from torch's, if that is too far."""
    import torch
    from torch import nn

    from accel import DuQuantConfig, collect, quantize

    inputs, outputs = 16 * rng.randrange(1, 20), rng.randrange(1, 90)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=rng.random() < 0.7)).eval()
    config = DuQuantConfig(
        include=(".*",),
        min_features=1,
        weight_bits=rng.choice((4, 8)),
        activation_bits=8,
        block=16,
        method=rng.choice(("duquant", "smooth", "rtn")),
    )
    x = torch.randn(rng.randrange(1, 40), inputs)
    statistics = collect(model, [(x,)], 1)
    found = [
        quantize(model, statistics, config, backend=backend).model(x).detach()
        for backend in ("auto", "torch")
    ]
    return _far(*found)


def _far(found: Any, expected: Any) -> str:
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-6))
    return f"{error:.2g} from torch" if not error < FAR else ""


def child(first: int, last: int) -> int:
    """Do them all; 1 where a result is far from torch's."""
    far = 0
    for seed in range(first, last):
        rng = random.Random(f"sanitize {seed}")
        what = layer if seed % 2 else program
        if wrong := what(rng):
            far += 1
            print(f"seed {seed}: {what.__name__}: {wrong}", flush=True)
    print(f"done {last - first}", flush=True)
    return int(far > 0)


def run_width(width: str, first: int, last: int) -> tuple[int, int, str]:
    """(programs and layers, reports of the sanitizers, what was said) for one width of vectors."""
    compiler = os.environ.get("CC", "cc")
    asan = subprocess.run(
        [*compiler.split(), "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "CC": f"{compiler} {SANITIZERS} {WIDTHS[width]}",
            "LD_PRELOAD": asan,
            "XDG_CACHE_HOME": cache,
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0:abort_on_error=0",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=0",
        }
        words = [sys.executable, "-m", "tools.sanitize", "--seeds", f"{first}:{last}", "--child"]
        done = subprocess.run(
            words, cwd=PROJECT, env=environment, capture_output=True, text=True, errors="replace"
        )
    said = done.stdout + done.stderr
    reports = sum(said.count(report) for report in REPORT)
    ended = f"done {last - first}" in done.stdout
    if not ended or done.returncode:
        said = f"it ended with {done.returncode}: {said[-3000:]}"
        reports += not ended
    return last - first, reports, said if reports or done.returncode else ""


def main(argv: Sequence[str]) -> int:
    """0: no report; 1: some."""
    parser = argparse.ArgumentParser("python -m tools.sanitize", description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="a:b")
    parser.add_argument("--widths", nargs="*", choices=list(WIDTHS), help="instead of all")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    first, last = map(int, given.seeds.split(":"))
    if given.child:
        return child(first, last)
    code = 0
    print("| vectors | seeds | programs and layers | reports |\n| --- | --- | --- | --- |")
    for width in given.widths or widths():
        n, reports, said = run_width(width, first, last)
        print(f"| {width} | {given.seeds} | {n} | {reports} |", flush=True)
        if said:
            print(said, file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
