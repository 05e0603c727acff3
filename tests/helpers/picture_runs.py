"""Whole runs on `PictureRun` of a small policy that sees its pictures.

    python -m tests.helpers.picture_runs WORD...

is the command line that knows this task.
"""

from __future__ import annotations

import sys
from pathlib import Path

from envs import TASKS
from policies import DiffusionPolicy, NetworkConfig, PolicyConfig, TaskInfo, save_policy
from policies.encoders.config import EncoderConfig
from runners import cli
from tests.helpers.picture import PictureConfig, PictureRun
from tests.helpers.seeing import SAMPLER, drawn

ENTRY = (PictureConfig, PictureRun)
WORDS = (
    *("task=kitchen", "task.name=picture", "task.max_steps=12", "n_episodes=6", "policy_batch=4"),
    *("engine=reference", "threads=1", "videos=0", "logger=none"),
    *("latency.repeats=3", "latency.warmup=1"),
)


def save_picture_policy(folder: Path, size: int = 14, n_state: int = 3) -> Path:
    """Two layers, one camera, a ResNet; weights are drawn."""
    arrays = {"image.top": [3, size, size + 4], "state": [n_state]}
    encoder = EncoderConfig(arrays, n_keypoints=2, feature_dim=5)
    network = NetworkConfig(2, 2, 8, 2, cond_dim=encoder.out_dim, n_layer=2, n_head=2, n_emb=16)
    config = PolicyConfig(
        network,
        encoder.out_dim,
        action_dim=2,
        n_action_steps=4,
        sampler=SAMPLER,
        task=TaskInfo("picture"),
        encoder=encoder,
    )
    policy = DiffusionPolicy(config)
    drawn(policy)
    save_policy(policy.eval(), folder)
    return folder


if __name__ == "__main__":
    TASKS["picture"] = ENTRY
    words, sys.argv = sys.argv[1:], ["run.py"]
    sys.exit(cli.run([*WORDS, *words]))
