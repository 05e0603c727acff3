"""skipstep export: a policy of ours -> a .ckpt of diffusion_policy, or a folder of LeRobot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..arguments import Parser, guarded

FORMATS = ("diffusion_policy", "lerobot")


def run(words: Sequence[str]) -> int:
    """0: written; 2: a mistake of the user."""
    parser = Parser("skipstep export", description=__doc__)
    parser.add_argument("source", help="the policy: what task.checkpoint takes")
    parser.add_argument("target", type=Path, help="the file, or LeRobot's folder, to write")
    parser.add_argument("--to", choices=FORMATS, default=FORMATS[0])
    parser.add_argument(
        "--state-dim",
        type=int,
        help="of LeRobot, where the policy sees one array: how many of its numbers are "
        "observation.state (the others become observation.environment_state)",
    )
    return guarded(parser, words, _export)


def _export(said: argparse.Namespace) -> int:
    from envs import reference_runner
    from policies import export_lerobot, export_reference, load_policy

    if said.state_dim is not None and said.to != "lerobot":
        raise ValueError("--state-dim goes with --to lerobot")
    policy = load_policy(said.source)
    if said.to == "lerobot":
        export_lerobot(policy, said.target, said.state_dim)
    else:
        export_reference(policy, said.target, reference_runner(asdict(policy.config.task)))
    files = said.target.iterdir() if said.target.is_dir() else [said.target]
    print(f"{sum(file.stat().st_size for file in files) / 2**20:.1f} MiB in {said.target}")
    return 0
