"""Requests a second of `skipstep serve`, and p50 and p99 beside the policy in one process.

    python -m benchmarks.serving --requests 1000 --clients 4

A server in a process of its own answers clients that ask one after another, all at once; the same
policy is asked as often in this process, alone in a batch of the same size. Other work on the
machine falls on both, which are timed in turn, a tenth of the requests at a time.
`multirun/serving/serving.json` (`--out`) gets every time, and `--show FILE` prints its table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np

from runners.machine import cpu, load

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = Path("checkpoints/kitchen")
OUT = Path("multirun/serving/serving.json")
TURNS = 10
ALONE = "in this process"


def started(
    folder: str, checkpoint: Path, steps: int, batch: int
) -> tuple[subprocess.Popen[str], str]:
    """A server, and where it listens."""
    words = [f"task.checkpoint={checkpoint.resolve()}", "sampler=ddpm", f"sampler.steps={steps}"]
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


def measured(checkpoint: Path, requests: int, n_clients: int, steps: int, batch: int) -> Any:
    """A record of one measurement: the machine, the setting, and milliseconds of every query."""
    import torch  # what shows a record needs none of it

    from accel import accelerated
    from policies import load_policy
    from runners.episodes.loop import act_padded, query_noise
    from runners.serve.client import Client

    torch.set_num_threads(1)
    policy = load_policy(checkpoint)
    obs = np.zeros((policy.n_obs_steps, policy.obs_dim), np.float32)
    each = max(requests // (n_clients * TURNS), 1)
    alone, served, seconds, before = list[float](), list[float](), 0.0, load()
    with tempfile.TemporaryDirectory() as folder:
        process, url = started(folder, checkpoint, steps, batch)
        clients = [Client(url) for _ in range(n_clients)]
        pool = ThreadPoolExecutor(n_clients)
        with accelerated(policy, sampler="ddpm", steps=steps) as fast:

            def ask(i: int) -> np.ndarray:
                return act_padded(fast, obs[None], [query_noise(0, 0, i)], batch)

            ask(0)
            for client in clients:
                client.infer({"state": obs})
            for _ in range(TURNS):
                alone += timed(ask, each * n_clients)
                start = time.perf_counter()
                asked = [
                    pool.submit(timed, lambda i, c=c: c.infer({"state": obs}), each)
                    for c in clients
                ]
                for future in asked:
                    served += future.result()
                seconds += time.perf_counter() - start
        for client in clients:
            client.close()
        process.send_signal(signal.SIGTERM)
        process.wait()
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "load": [round(before, 1), round(load(), 1)],
        "checkpoint": str(checkpoint),
        "steps": steps,
        "batch": batch,
        "clients": n_clients,
        "seconds": round(seconds, 3),
        "ms": {
            ALONE: [round(ms, 2) for ms in alone],
            f"{n_clients} clients at once": [round(ms, 2) for ms in served],
        },
    }


def table(record: Mapping[str, Any]) -> str:
    """A record as a line about the machine and a table."""
    first, last = record["load"]
    *_, n = (len(found) for found in record["ms"].values())
    lines = [
        f"{record['checkpoint']}, ddpm-{record['steps']}, batches of {record['batch']}, on one "
        f"thread each; {record['cpu']}, {record['cores']} cores, load {first} to {last}.",
        "",
        "| | queries | p50, ms | p99, ms |",
        "|---|---|---|---|",
    ]
    for name, found in record["ms"].items():
        p50, p99 = np.percentile(found, (50, 99))
        lines.append(f"| {name} | {len(found)} | {p50:.1f} | {p99:.1f} |")
    return "\n".join([*lines, "", f"{n / record['seconds']:.1f} requests a second were answered."])


def main() -> int:
    """Measure and keep, or show what was kept."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    words.add_argument("--requests", type=int, default=1000)
    words.add_argument("--clients", type=int, default=4)
    words.add_argument("--steps", type=int, default=5, help="of DDPM")
    words.add_argument("--batch", type=int, default=8, help="policy_batch")
    words.add_argument("--out", type=Path, default=OUT)
    words.add_argument("--show", type=Path, help="measure nothing, print the table of this record")
    said = words.parse_args()
    if said.show:
        print(table(json.loads(said.show.read_text())))
        return 0
    record = measured(said.checkpoint, said.requests, said.clients, said.steps, said.batch)
    said.out.parent.mkdir(parents=True, exist_ok=True)
    said.out.write_text(json.dumps(record) + "\n")
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
