"""Requests a second of `skipstep serve`, and p50 and p99 beside the policy in one process.

    python -m benchmarks.serving --requests 1000 --clients 4

A server in a process of its own answers clients that ask one after another, all at once; the same
policy is asked as often in this process, alone in a batch. Other work on the machine falls on both,
which are timed in turn, a tenth of the requests at a time.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np
import torch

from accel import accelerated
from policies import load_policy
from runners.episodes.loop import act_padded, query_noise
from runners.machine import cpu, load
from runners.serve.client import Client

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "checkpoints/kitchen"
TURNS = 10


def started(folder: str, steps: int, batch: int) -> tuple[subprocess.Popen[str], str]:
    """A server, and where it listens."""
    words = [f"task.checkpoint={CHECKPOINT}", "sampler=ddpm", f"sampler.steps={steps}"]
    words += ["serve.port=0", f"policy_batch={batch}", "threads=1"]
    command = [sys.executable, str(ROOT / "run.py"), "serve", *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r"ws://\S+", line):
            return process, found[0]
    raise RuntimeError("the server ended before it was ready")


def timed(ask: Callable[[int], object], n: int) -> list[float]:
    """Milliseconds of n calls, one after another."""
    found = []
    for i in range(n):
        start = time.perf_counter()
        ask(i)
        found.append((time.perf_counter() - start) * 1e3)
    return found


def main() -> int:
    """Print a table."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--requests", type=int, default=1000)
    words.add_argument("--clients", type=int, default=4)
    words.add_argument("--steps", type=int, default=5, help="of DDPM")
    words.add_argument("--batch", type=int, default=8, help="policy_batch")
    said = words.parse_args()
    torch.set_num_threads(1)
    policy = load_policy(CHECKPOINT)
    obs = np.zeros((policy.n_obs_steps, policy.obs_dim), np.float32)
    each = max(said.requests // (said.clients * TURNS), 1)
    times: dict[str, list[float]] = {"in this process": [], f"{said.clients} clients": []}
    seconds, before = 0.0, load()
    with tempfile.TemporaryDirectory() as folder:
        process, url = started(folder, said.steps, said.batch)
        clients = [Client(url) for _ in range(said.clients)]
        pool = ThreadPoolExecutor(said.clients)
        with accelerated(policy, sampler="ddpm", steps=said.steps) as fast:

            def alone(i: int) -> np.ndarray:
                return act_padded(fast, obs[None], [query_noise(0, 0, i)], said.batch)

            alone(0)
            for client in clients:
                client.infer({"state": obs})
            for _ in range(TURNS):
                times["in this process"] += timed(alone, each)
                start = time.perf_counter()
                asked = [
                    pool.submit(timed, lambda i, c=c: c.infer({"state": obs}), each)
                    for c in clients
                ]
                for future in asked:
                    times[f"{said.clients} clients"] += future.result()
                seconds += time.perf_counter() - start
        for client in clients:
            client.close()
        process.send_signal(signal.SIGTERM)
        process.wait()
    n = len(times[f"{said.clients} clients"])
    print(f"{cpu()}, load {before:.1f} to {load():.1f}; ddpm-{said.steps}, batch {said.batch}")
    print("| | queries | p50 ms | p99 ms |\n|---|---|---|---|")
    for name, found in times.items():
        p50, p99 = np.percentile(found, (50, 99))
        print(f"| {name} | {len(found)} | {p50:.1f} | {p99:.1f} |")
    print(f"{n / seconds:.0f} requests a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
