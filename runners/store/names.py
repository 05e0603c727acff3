"""What the files and folders of a run are called."""

from __future__ import annotations

EPISODES, RESULT, STATUS, CONFIG = "episodes.jsonl", "result.json", "status.json", "config.yaml"
OBSERVATIONS, TRACEBACK, LOCK, TIME = "observations.npz", "traceback.txt", ".lock", "time.json"
MERGING, SHARDS, PREVIOUS = ".lock.merge", "shards", "previous"
TRAINING = ("metrics.jsonl", "checkpoints", "policy")
TRAJECTORIES, BRANCH_ERRORS, PLAN_DIGEST = "trajectories", "branch_errors.json", "plan.txt"
OVERRIDES = ".hydra/overrides.yaml"
SET_ASIDE = (
    EPISODES,
    RESULT,
    STATUS,
    TIME,
    PLAN_DIGEST,
    OBSERVATIONS,
    TRAJECTORIES,
    BRANCH_ERRORS,
    *TRAINING,
    SHARDS,
    "videos",
    "wandb",
)
