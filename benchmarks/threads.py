"""python -m benchmarks.threads: how much a second thread brings to a query of one row.

The fused engine on one thread and on two, which take turns in a random order; once on the machine
as it is, and once with further processes that never wait. Times are wall times: a second thread
takes more CPU time and is there to take less time. Where others use the machine as it is, what an
idle one gives stays open, and the load says so.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np
import torch

from accel import RtnConfig, UniformConfig, accelerated
from accel.kernels.native import helped, helper_counts, is_compiled
from accel.quant.native_linear import works
from benchmarks.busy import company
from benchmarks.rounds import interleave
from benchmarks.setting import KITCHEN
from benchmarks.unets import SMALL, coded
from benchmarks.writing import check, keep, markdown
from policies import DiffusionPolicy, load_policy
from runners.episodes.two_clocks import Times, compare
from runners.machine import cpu, load

STEPS = 10
LEAST = 0.9  # of one thread, that two give on any machine


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__)
    words.add_argument("--rounds", type=int, default=40)
    words.add_argument("--others", type=int, default=2, help="busy processes")
    words.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    words.add_argument("--out", type=Path, default=Path("multirun/threads"), help="folder")
    return words


def kitchen(steps: int | None = STEPS) -> DiffusionPolicy:
    policy = load_policy(KITCHEN)
    return policy if steps is None else policy.with_sampler("ddim", steps)


def unet() -> DiffusionPolicy:
    return load_policy(SMALL).with_sampler("ddpm", STEPS)


ARMS: dict[str, tuple[Callable[[], DiffusionPolicy], Any, Any]] = {
    "transformer, DDIM-10": (kitchen, None, None),
    "transformer, 10 of 100 steps": (partial(kitchen, None), UniformConfig(steps=STEPS), None),
    "transformer, DDIM-10, W8A8": (kitchen, None, RtnConfig(clip=False)),
    "UNet, 10 steps": (unet, None, None),
}
"""{name: (policy, cache, quantisation)}, of shipped checkpoints."""


@contextmanager
def both(name: str) -> Iterator[dict[str, Callable[[], Any]]]:
    """The arm's query on one thread and on two."""
    make, cache, quant = ARMS[name]
    policy = make()
    obs = torch.zeros(1, policy.n_obs_steps, policy.obs_dim)
    calls: dict[str, Callable[[], Any]] = {}
    with ExitStack() as stack:
        for threads in (1, 2):
            torch.set_num_threads(threads)  # an engine keeps those that it was built with
            copy = None if quant is None else coded(policy, quant)
            fast = stack.enter_context(accelerated(policy, cache, copy))
            calls[str(threads)] = lambda act=fast.act: act(obs, torch.Generator().manual_seed(0))  # type: ignore[misc]
            calls[str(threads)]()
        torch.set_num_threads(1)
        if not torch.equal(calls["1"](), calls["2"]()):
            raise RuntimeError(f"{name}: two threads give other actions than one")
        yield calls


def measure(name: str, rounds: int, others: int) -> dict[str, Any]:
    """Times of one arm beside so many busy processes."""
    with both(name) as calls, company(others):
        before, counts = load(), helper_counts()
        times = interleave(calls, rounds, warmup=2)
        done = {key: value - counts[key] for key, value in helper_counts().items()}
    return {
        **{"arm": name, "others": others, "load": [before, load()], "helper": done},
        **summary(times["1"], times["2"]),
    }


def summary(one: Times, two: Times) -> dict[str, Any]:
    """How many times as fast two threads are: by medians, by all the time, and round by round."""
    pairs = np.array(one.wall_ms) / np.array(two.wall_ms)
    found = compare(one, two, 2, "cpu")
    return {
        "wall_p50_ms": [float(np.median(times.wall_ms)) for times in (one, two)],
        "cpu_p50_ms": [float(np.median(times.cpu_ms)) for times in (one, two)],
        "ratio": found["ratio"],
        "ratio_interval": found["ratio_interval"],
        "ratio_of_sums": float(np.sum(one.wall_ms) / np.sum(two.wall_ms)),
        "rounds_p10_p90": [float(value) for value in np.percentile(pairs, (10, 90))],
        "starved": one.starved,
    }


def render(found: Mapping[str, Any]) -> str:
    """A line for each arm and company, and what is open."""
    header = (
        *("arm", "busy processes", "ms on one", "on two", "times as fast", "of all time"),
        *("rounds, 10 to 90 %", "CPU ms", "by the helper", "left", "load"),
    )
    rows = []
    for row in found["rows"]:
        helper, (low, high) = row["helper"], row["ratio_interval"]
        share = helper["of_helper"] / helper["pieces"] if helper["pieces"] else 0.0
        rows.append(
            (
                row["arm"],
                str(row["others"]),
                *(f"{ms:.1f}" for ms in row["wall_p50_ms"]),
                f"{row['ratio']:.2f}x [{low:.2f}, {high:.2f}]",
                f"{row['ratio_of_sums']:.2f}x",
                "{:.2f} to {:.2f}".format(*row["rounds_p10_p90"]),
                "{:.1f}, {:.1f}".format(*row["cpu_p50_ms"]),
                f"{share:.0%} of {helper['pieces']} pieces",
                str(helper["left"]),
                "{:.1f}, {:.1f}".format(*row["load"]),
            )
        )
    idle = [row for row in found["rows"] if not row["others"] and not row["starved"]]
    cores = f"{found['rounds']} rounds, {found['cores']} cores of {found['cpu']}"
    said = "" if idle else "; others used this machine all along: an idle one's figure is open"
    return f"{markdown(header, rows)}\n\n{cores}{said}"


def main(argv: Sequence[str]) -> int:
    """0; 1: two threads give less than 0.9 of one; 2: a wrong option, or there is no helper."""
    options = parser().parse_args(argv)
    torch.set_num_threads(2)
    try:
        check(options, rounds=2, others=0)
        if not is_compiled() or not helped(1):
            raise ValueError("it needs a C compiler and two cores")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for name in options.arms:
        if ARMS[name][2] is not None and not works():
            print(f"{name}: no compiled code for integers here", file=sys.stderr)
            continue
        rows += [measure(name, options.rounds, others) for others in (0, options.others)]
    about = {"rounds": options.rounds, "cores": os.cpu_count(), "cpu": cpu()}
    found = {"rows": rows, **about}
    keep(options.out, "threads", found, render(found))
    return int(any(row["ratio_of_sums"] < LEAST for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
