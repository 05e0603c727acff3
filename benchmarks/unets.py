"""python -m benchmarks.unets: UNets in the fused engine, in torch and in OpenVINO.

One process, one round being a query of each, in a random order; times are of the CPU. Weights are
random, those of the small network aside; what half precision does not hold is packed in float32.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch

from accel import (
    DuQuantConfig,
    FusedConfig,
    Quantized,
    RtnConfig,
    accelerated,
    collect,
    quantize,
)
from accel.kernels.native import bfloat_works
from accel.quant.native_linear import works
from benchmarks.peers import openvino_policy
from benchmarks.rounds import beside, interleave
from benchmarks.setting import Unavailable
from benchmarks.writing import check, keep
from policies import DiffusionPolicy, load_policy
from runners.machine import cpu, load

SMALL = "checkpoints/pusht_unet"
SIZES = {
    "64, 128, 256 (checkpoints/pusht_unet)": None,
    "256, 512, 1024 (diffusion_policy's)": [256, 512, 1024],
    "512, 1024, 2048 (LeRobot's)": [512, 1024, 2048],
}
ENGINES: dict[str, Any] = {
    "torch": "reference",
    "fused": FusedConfig(),
    "fused, half": FusedConfig(precision="half"),
}
CODES: dict[str, Any] = {
    "fused, W8A8": RtnConfig(clip=False),
    "fused, W8A8, rotated": DuQuantConfig(method="duquant", clip=False),
    "fused, W4A8": RtnConfig(weight_bits=4, clip=False),
}
FITTED_ROWS = 32  # of a layer's inputs, which times do not depend on


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="python -m benchmarks.unets", description=__doc__)
    words.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    words.add_argument("--rounds", type=int, default=10)
    words.add_argument("--steps", type=int, default=5, help="network calls of a query")
    words.add_argument("--widest", type=int, default=2048, help="levels of no more channels")
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--out", type=Path, default=Path("multirun/unets"), help="folder")
    return words


def sized(dims: list[int] | None, steps: int) -> DiffusionPolicy:
    """The shipped policy, or one like it with other levels and random weights."""
    policy = load_policy(SMALL)
    if dims is not None:
        torch.manual_seed(0)
        network = replace(policy.config.network, down_dims=dims)
        policy = DiffusionPolicy(replace(policy.config, network=network)).eval()
    return policy.with_sampler("ddpm", steps)


def engines() -> dict[str, Any]:
    """Ours, with bfloat16 where the CPU multiplies it."""
    return ENGINES | ({"fused, bf16": FusedConfig(precision="bf16")} if bfloat_works() else {})


def peers() -> dict[str, str]:
    """{name: precision} of OpenVINO, likewise."""
    return {"OpenVINO": "f32"} | ({"OpenVINO, bf16": "bf16"} if bfloat_works() else {})


def coded(policy: DiffusionPolicy, config: Any) -> Quantized:
    """A quantised copy, fitted to one query."""
    noise = torch.Generator().manual_seed(0)
    batches = [(torch.randn(1, policy.n_obs_steps, policy.obs_dim, generator=noise), [noise])]
    seen = collect(policy, batches, 1, run=lambda _, batch: policy.act(*batch), rows=FITTED_ROWS)
    return quantize(policy, seen, config, backend="torch")


def row(policy: DiffusionPolicy, batch: int, rounds: int, threads: int) -> dict[str, Any]:
    """{engine: times of a query, and how many times as fast as torch it is}."""
    obs = torch.zeros(batch, policy.n_obs_steps, policy.obs_dim)

    def query(act: Callable[..., torch.Tensor]) -> torch.Tensor:
        return act(obs, [torch.Generator().manual_seed(i) for i in range(batch)])

    with ExitStack() as stack:
        calls = {
            name: partial(query, stack.enter_context(accelerated(policy, engine=engine)).act)
            for name, engine in engines().items()
        }
        for name, config in CODES.items() if works() else ():
            copy = stack.enter_context(accelerated(policy, None, coded(policy, config)))
            calls[name] = partial(query, copy.act)
        for name, precision in peers().items():
            try:
                exported = openvino_policy(policy, batch, precision)
                calls[name] = partial(exported, obs, torch.Generator())
            except Unavailable as reason:
                print(f"{name}: {reason}", file=sys.stderr)
        times = interleave(calls, rounds, warmup=2)
    return {name: beside(times["torch"], arm, threads) for name, arm in times.items()}


def render(found: Mapping[str, Any]) -> str:
    """A table with a line for each size and batch."""
    lines = [
        "| levels | batch | engine | CPU ms a call | times as fast as torch |",
        "|---|---|---|---|---|",
    ]
    for entry in found["rows"]:
        for name, arm in entry["engines"].items():
            low, high = arm["times_as_fast_interval"]
            ms = arm["cpu_p50_ms"] / found["steps"]
            ratio = f"{arm['times_as_fast']:.1f}x [{low:.1f}, {high:.1f}]"
            lines.append(f"| {entry['size']} | {entry['batch']} | {name} | {ms:.2f} | {ratio} |")
    loads = f"load {found['load'][0]:.1f} before, {found['load'][1]:.1f} after"
    return "\n".join([*lines, "", f"{found['rounds']} rounds, {found['cpu']}, {loads}"])


def measure(policies: Mapping[str, DiffusionPolicy], options: argparse.Namespace) -> Any:
    """{"rows": one for each size and batch} and what `render` needs besides."""
    torch.set_num_threads(options.threads)
    before, rows = load(), []
    for size, policy in policies.items():
        for batch in options.batch:
            engines = row(policy, batch, options.rounds, options.threads)
            rows.append({"size": size, "batch": batch, "engines": engines})
    words = {name: getattr(options, name) for name in ("rounds", "steps", "threads")}
    return {"rows": rows, **words, "cpu": cpu(), "load": [before, load()]}


def main(argv: Sequence[str]) -> int:
    """0, or 2: a wrong option."""
    options = parser().parse_args(argv)
    try:
        check(options, rounds=1, steps=1, threads=1)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen = {size: dims for size, dims in SIZES.items() if max(dims or [0]) <= options.widest}
    found = measure({size: sized(dims, options.steps) for size, dims in chosen.items()}, options)
    keep(options.out, "unets", found, render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
