"""skipstep bench: how long a query takes here, in each engine and with fewer steps.

Every way of running the policy is timed in turn, so that what else the machine does falls on all of
them alike. Ratios are medians over rounds, to the reference implementation: stock modules, the
checkpoint's own steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..arguments import Parser, guarded
from ..formatting import columns
from ..machine import cpu, load

ARMS: dict[str, dict[str, Any]] = {  # as `accelerated` takes them
    "reference": {"engine": "reference"},
    "fused": {"engine": "fused"},
    "fused, 10 DDPM steps": {"engine": "fused", "sampler": "ddpm", "steps": 10},
    "fused, 5 DDPM steps": {"engine": "fused", "sampler": "ddpm", "steps": 5},
}
ROUNDS, QUICK_ROUNDS = 20, 3
QUICK_STEPS = 20  # of the policy that is drawn


def run(words: Sequence[str]) -> int:
    """0: timed; 2: a mistake of the user."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported
    parser = Parser("skipstep bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--checkpoint", help="a policy, as task.checkpoint takes it; else one of Kitchen's size"
    )
    parser.add_argument("--batch", type=int, default=1, help="rows of a query (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="of the policy (default 1)")
    parser.add_argument("--rounds", type=int, help=f"of all in turn (default {ROUNDS})")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds of {QUICK_STEPS} steps"
    )
    return guarded(parser, words, _bench)


def _bench(said: argparse.Namespace) -> int:
    import torch

    rounds = said.rounds or (QUICK_ROUNDS if said.quick else ROUNDS)
    for name in ("batch", "threads"):
        if getattr(said, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(said, name)}")
    if rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {said.rounds}")
    torch.set_num_threads(said.threads)
    policy = _policy(said.checkpoint, said.quick)
    loads = load()
    times = timed(policy, said.batch, rounds)
    millions = sum(p.numel() for p in policy.model.parameters()) / 1e6
    print(
        f"{policy.sizes.family} of {millions:.1f} M parameters, {policy.n_inference_steps} steps; "
        f"batch {said.batch}, {said.threads} threads, {rounds} rounds; "
        f"{cpu()}, load {loads:.1f} to {load():.1f}"
    )
    print("\n".join(columns([("", "median ms", "least ms", "times as fast"), *rows(times)])))
    return 0


def timed(policy: Any, batch: int, rounds: int) -> dict[str, list[float]]:
    """{arm: seconds of its query in each round}, after one that is not timed."""
    import torch

    from accel import accelerated

    generator = torch.Generator().manual_seed(0)
    arrays = {
        name: torch.rand((batch, policy.n_obs_steps, *spec.shape), generator=generator)
        for name, spec in policy.obs_spec.items()
    }
    obs = next(iter(arrays.values())) if policy.obs_spec.single else arrays
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    with ExitStack() as stack:
        fast = {name: stack.enter_context(accelerated(policy, **arm)) for name, arm in ARMS.items()}
        for turn in range(rounds + 1):
            for name, arm in fast.items():
                noise = [torch.Generator().manual_seed(row) for row in range(batch)]
                start = time.perf_counter()
                arm.act(obs, noise)
                if turn:
                    times[name].append(time.perf_counter() - start)
    return times


def rows(times: Mapping[str, Sequence[float]]) -> list[tuple[str, ...]]:
    """A line an arm."""
    baseline = next(iter(times.values()))
    found: list[tuple[str, ...]] = []
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(baseline, own, strict=True))
        found.append(
            (name, f"{statistics.median(own) * 1e3:.1f}", f"{min(own) * 1e3:.1f}", f"{ratio:.1f}x")
        )
    return found


def _policy(checkpoint: str | None, quick: bool) -> Any:
    """The one that is named, or one of the size of the shipped policy of Kitchen, weights drawn."""
    import torch

    from policies import DiffusionPolicy, NetworkConfig, PolicyConfig, SamplerConfig, load_policy

    if checkpoint is not None:
        return load_policy(checkpoint)
    torch.manual_seed(0)
    network = NetworkConfig(9, 9, 16, 4, cond_dim=60, n_layer=8, n_head=4, n_emb=256)
    steps = QUICK_STEPS if quick else 100
    sampler = SamplerConfig(num_train_timesteps=steps, steps=steps)
    return DiffusionPolicy(PolicyConfig(network, 60, 9, 8, sampler=sampler)).eval()
