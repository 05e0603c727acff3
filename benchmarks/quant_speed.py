"""python -m benchmarks.quant_speed: quantised policies beside float32, in C and module by module.

One process, one round being a query of each arm, in a random order; times are of the CPU. `fused`
is the engine; `modules` is the policy as any torch model is run, `accel.quantize(...).model`,
beside the policy itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch

from accel import DuQuantConfig, FusedConfig, accelerated, collect, quantize
from benchmarks.rounds import beside, interleave
from benchmarks.writing import check, keep
from policies import load_policy
from runners.machine import cpu, load

SEED = "W4A8, block 16, permute, row_rot=restore"
SETTINGS: dict[str, dict[str, Any]] = {
    SEED: {"weight_bits": 4, "block": 16, "permute": True, "row_rot": "restore"},
    "W4A8": {"weight_bits": 4},
    "W8A8, row_rot=restore": {"row_rot": "restore"},
    "W8A8": {},
}
PLAIN = "float32"


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="python -m benchmarks.quant_speed", description=__doc__)
    words.add_argument("--policy", default="checkpoints/lift", help="file or folder")
    words.add_argument("--rounds", type=int, default=15)
    words.add_argument("--steps", type=int, default=10, help="network calls of a query")
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--out", type=Path, default=Path("multirun/quant_speed"), help="folder")
    return words


def measure(path: str, steps: int, rounds: int, threads: int) -> dict[str, Any]:
    """{way of running: {setting: times of a query, and how many times as fast as float32}}."""
    policy = load_policy(path).with_sampler("ddpm", steps)
    obs = torch.randn(
        1, policy.n_obs_steps, policy.obs_dim, generator=torch.Generator().manual_seed(0)
    )

    def query(act: Callable[..., torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            return act(obs, torch.Generator().manual_seed(0))

    statistics = collect(policy, [None], 1, run=lambda _, __: query(policy.act))
    copies = {
        name: quantize(policy, statistics, DuQuantConfig(method="duquant", **settings))
        for name, settings in SETTINGS.items()
    }
    with ExitStack() as stack:
        fused = {
            name: stack.enter_context(accelerated(policy, None, copy, FusedConfig())).act
            for name, copy in {PLAIN: None, **copies}.items()
        }
        modules: dict[str, Any] = {PLAIN: policy.act}
        modules |= {name: copy.model.act for name, copy in copies.items()}
        calls = {
            (way, name): partial(query, act)
            for way, acts in (("fused", fused), ("modules", modules))
            for name, act in acts.items()
        }
        keys = {f"{way}: {name}": (way, name) for way, name in calls}
        times = interleave({k: calls[key] for k, key in keys.items()}, rounds, warmup=2)
    found: dict[str, Any] = {}
    for key, (way, name) in keys.items():
        found.setdefault(way, {})[name] = beside(times[f"{way}: {PLAIN}"], times[key], threads)
    return found


def render(found: Mapping[str, Any]) -> str:
    """A table with a line for each way and setting."""
    lines = [
        "| run by | setting | CPU ms a query | times as fast as float32 |",
        "|---|---|---|---|",
    ]
    for way, arms in found["ways"].items():
        for name, arm in arms.items():
            low, high = arm["times_as_fast_interval"]
            ratio = f"{arm['times_as_fast']:.2f}x [{low:.2f}, {high:.2f}]"
            lines.append(f"| {way} | {name} | {arm['cpu_p50_ms']:.1f} | {ratio} |")
    loads = f"load {found['load'][0]:.1f} before, {found['load'][1]:.1f} after"
    where = f"{found['policy']}, {found['steps']} steps, {found['threads']} threads"
    machine = f"{found['cpu']}, {found['instructions']}"
    return "\n".join([*lines, "", f"{where}, {found['rounds']} rounds, {machine}, {loads}"])


def main(argv: Sequence[str]) -> int:
    """0, or 2: a wrong option."""
    options = parser().parse_args(argv)
    try:
        check(options, rounds=1, steps=1, threads=1)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    before = load()
    ways = measure(options.policy, options.steps, options.rounds, options.threads)
    found = {
        "policy": options.policy,
        "ways": ways,
        "rounds": options.rounds,
        "steps": options.steps,
        "threads": options.threads,
        "cpu": cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": [before, load()],
    }
    keep(options.out, "quant_speed", found, render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
