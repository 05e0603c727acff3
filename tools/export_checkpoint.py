"""Our policy -> a .ckpt of diffusion_policy, or a folder of LeRobot."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

from envs import reference_runner
from policies import export_lerobot, export_reference, load_policy

FORMATS = ("diffusion_policy", "lerobot")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser("tools/export_checkpoint.py", description=__doc__)
    parser.add_argument("source", help="the policy: what task.checkpoint takes")
    parser.add_argument("target", type=Path, help="the file, or LeRobot's folder, to write")
    parser.add_argument("--to", choices=FORMATS, default=FORMATS[0])
    parser.add_argument(
        "--state-dim",
        type=int,
        help="of LeRobot, where the policy sees one array: how many of its numbers are "
        "observation.state (the others become observation.environment_state)",
    )
    said = parser.parse_args(words)
    if said.state_dim is not None and said.to != "lerobot":
        parser.error("--state-dim goes with --to lerobot")
    try:
        policy = load_policy(said.source)
        if said.to == "lerobot":
            export_lerobot(policy, said.target, said.state_dim)
        else:
            runner = reference_runner(asdict(policy.config.task))
            export_reference(policy, said.target, runner)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    files = said.target.iterdir() if said.target.is_dir() else [said.target]
    print(f"{sum(file.stat().st_size for file in files) / 2**20:.1f} MiB in {said.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
