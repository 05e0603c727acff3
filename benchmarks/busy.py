"""python -m benchmarks.busy: is a ratio the same while other processes keep the machine busy?

The shipped Kitchen policy under cache=uniform in the fused engine, and plain: as in any run, once
on the machine as it is, and once with further processes that never wait.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch

from accel import UniformConfig, accelerated
from benchmarks.setting import KITCHEN, observations
from benchmarks.writing import check, keep
from policies import load_policy
from runners.episodes.latency import LatencyConfig, measure
from runners.episodes.two_clocks import agree

SPIN = "while True: pass"


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    words.add_argument("--others", type=int, default=2, help="busy processes")
    words.add_argument("--steps", type=int, default=10, help="as cache.steps=, of 100")
    words.add_argument("--repeats", type=int, default=100, help="as latency.repeats=")
    words.add_argument("--max-s", type=float, default=60, help="as latency.max_s=, of each of both")
    words.add_argument("--threads", type=int, default=1, help="as threads=")
    words.add_argument("--out", type=Path, default=Path("multirun/busy"), help="folder")
    return words


@contextmanager
def company(n: int) -> Iterator[None]:
    """So many processes that compute and never wait, until the context ends."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def render(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a measurement, and whether they agree."""
    lines = ["       times as fast        by wall  by CPU  clock  load before, after"]
    for name, latency in found.items():
        low, high = latency["times_as_fast_interval"]
        load, ratio = latency["load"], f"{latency['times_as_fast']:.1f} [{low:.1f}, {high:.1f}]"
        lines.append(
            f"{name:5}  {ratio:19}  {latency['ratio']:7.1f}  {latency['cpu_ratio']:6.1f}  "
            f"{latency['clock']:5}  {load['before']:.1f}, {load['after']:.1f}"
        )
    quiet, busy = (found[name]["times_as_fast"] for name in ("quiet", "busy"))
    verdict = "agree" if agree(quiet, busy) else "do NOT agree"
    cores = f"{load['cores']} cores of {latency['cpu']}"
    lines.append(f"they {verdict} within 20 %: busy / quiet = {busy / quiet:.2f}; {cores}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """0: the ratios agree; 1: they do not; 2: a wrong option."""
    options = parser().parse_args(argv)
    try:
        check(options, others=0, steps=1, repeats=1, threads=1)
        config = LatencyConfig(repeats=options.repeats, max_s=options.max_s)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    policy = load_policy(KITCHEN)
    cache = UniformConfig(steps=options.steps, spacing="quadratic")
    obs, found = observations(policy, 16).numpy(), {}
    with accelerated(policy, cache) as fast:
        for name, others in {"quiet": 0, "busy": options.others}.items():
            with company(others):
                found[name] = measure(fast, policy, obs, config, "cpu")
    keep(options.out, "busy", found, render(found))
    return int(not agree(*(latency["times_as_fast"] for latency in found.values())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
