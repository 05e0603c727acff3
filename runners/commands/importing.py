"""skipstep import: a policy that `task.checkpoint` takes -> a folder of ours, in half precision."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..arguments import Parser, guarded


def run(words: Sequence[str]) -> int:
    """0: written; 2: a mistake of the user."""
    parser = Parser("skipstep import", description=__doc__)
    parser.add_argument("source", help="a .ckpt, .pth or folder of another library, or of ours")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--weights", choices=("auto", "ema", "model"), default="auto")
    parser.add_argument("--pick", choices=("best", "latest"), default="best", help="of a folder")
    return guarded(parser, words, _import)


def _import(said: argparse.Namespace) -> int:
    from policies import load_policy, save_policy

    if said.target.exists() and (not said.target.is_dir() or any(said.target.iterdir())):
        raise ValueError(f"{said.target} is there already: name a folder that is not, or is empty")
    save_policy(load_policy(said.source, said.weights, pick=said.pick), said.target)
    size = sum(file.stat().st_size for file in said.target.iterdir())
    print(f"{size / 2**20:.1f} MiB in {said.target}")
    return 0
