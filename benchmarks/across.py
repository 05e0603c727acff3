"""What values of the query before are worth for a policy, and a calibration that holds it.

    python benchmarks/across.py --task kitchen --episodes 4 --queries 16 --steps 10

Episodes of the plain policy are played, from seeds that neither tests nor calibrations have, and
their queries asked again, branch by branch; `--data FILE` takes steps of demonstrations instead,
as far apart as queries are, and plays nothing. `--calibration FOLDER --into FOLDER` adds the
moments to a calibration of the same policy and sampler, for `cache=hash_ab cache.across=true`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch

from accel import Calibration, accelerated, measure_across, worth, worth_table
from accel.caches.uniform import update_steps
from accel.calibration.across import Worth
from envs import make_task
from policies import DiffusionPolicy, load_policy
from runners.episodes.loop import evaluate, query_noise
from runners.episodes.observed import tensors
from runners.jobs.demonstrations import Histories, demonstrated
from runners.jobs.settings import CalibrationChoice
from skipstep.observations import as_seen, each, n_rows, stacked, take

FIRST_SEED = 500000
EXPONENT = 2.0  # of the schedule: quadratic spacing
Played = list[tuple[Any, list[torch.Generator]]]


def played(
    policy: DiffusionPolicy, name: str, seeds: Sequence[int], queries: int, noise_seed: int
) -> Played:
    """Observations and noise of the first queries of each episode, in order."""
    most = min(make_task(name).max_steps, queries * policy.n_action_steps)
    found: Played = []
    with accelerated(policy) as plain:
        task = make_task(name, max_steps=most)
        for episode in evaluate(plain, task, seeds, 1, noise_seed, policy_batch=1):
            if episode.status != "ok":
                print(f"seed {episode.seed} is left out: {episode.error}", file=sys.stderr)
                continue
            n = min(episode.n_queries, queries)
            noise = [query_noise(noise_seed, episode.seed, query) for query in range(n)]
            found.append((tensors(take(episode.observations, slice(n))), noise))
    return found


def shown(
    policy: DiffusionPolicy, name: str, data: str, demos: range, queries: int, noise_seed: int
) -> Played:
    """The same of demonstrations: an observation every `n_action_steps` steps."""
    choice = CalibrationChoice(data=data, demos=list(demos))
    read = demonstrated(choice, policy, make_task(name))
    found: Played = []
    for number, obs in zip(read.numbers, read.obs, strict=True):
        steps = range(0, n_rows(obs), policy.n_action_steps)[:queries]
        seen = each(lambda array: Histories(array, policy.n_obs_steps), obs)
        rows = as_seen(stacked([take(seen, step) for step in steps]))
        noise = [query_noise(noise_seed, number, query) for query in range(len(steps))]
        found.append((tensors(rows), noise))
    return found


def said(args: argparse.Namespace, found: Played, rows: list[Worth]) -> str:
    """The table under what it is of."""
    n_queries = sum(len(noise) for _, noise in found)
    whose = "demonstrations" if args.data else "episodes"
    words = f"{args.task}: {n_queries} queries of {len(found)} {whose}, S = {args.steps}"
    return f"{words}\n\n{worth_table(rows)}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="kitchen")
    parser.add_argument("--checkpoint", help="default: checkpoints/TASK")
    parser.add_argument("--sampler", help="ddpm or ddim; default: the checkpoint's own")
    parser.add_argument("--sampler-steps", type=int, help="of --sampler")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--queries", type=int, default=16, help="of each episode, at most")
    parser.add_argument("--data", help="demonstrations; --episodes of them, the first ones")
    parser.add_argument("--noise-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10, help="update steps that the table is of")
    parser.add_argument("--calibration", type=Path, help="of this policy, with --into")
    parser.add_argument("--into", type=Path, help="folder of the calibration with the moments")
    args = parser.parse_args(words)
    if (args.calibration is None) != (args.into is None):
        parser.error("--calibration and --into go together")
    policy = load_policy(args.checkpoint or f"checkpoints/{args.task}")
    if args.sampler:
        policy = policy.with_sampler(args.sampler, args.sampler_steps)
    if not 3 <= args.steps <= policy.n_inference_steps:
        parser.error(f"--steps must be from 3 to {policy.n_inference_steps}, got {args.steps}")
    if args.data:
        demos = range(args.episodes)
        found = shown(policy, args.task, args.data, demos, args.queries, args.noise_seed)
    else:
        seeds = range(FIRST_SEED, FIRST_SEED + args.episodes)
        found = played(policy, args.task, seeds, args.queries, args.noise_seed)
    calibration = Calibration.load(args.calibration) if args.into else None
    if calibration is not None:
        calibration.check(policy)
    arrays = measure_across(policy, found)
    steps = update_steps(policy.n_inference_steps, args.steps, EXPONENT)
    print(said(args, found, worth(arrays, steps)))
    if calibration is not None:
        print(calibration.with_added(arrays).save(args.into))


if __name__ == "__main__":
    main()
