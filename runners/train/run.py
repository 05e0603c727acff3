"""runner=train: demonstrations to a policy, with everything that is written on the way."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..formatting import named, task_words, underlined
from ..jobs.runner import Runner
from ..jobs.session import logged, run_unless_done, signature
from ..metrics import wilson
from ..store.folder import RunStore
from .prepare import TrainJob, precision, prepare_training
from .settings import TrainConfig
from .state import load_state
from .steps import POLICY, STATE, Progress, take_steps
from .trainer import Trainer

log = logging.getLogger(__name__)


def run_train(job: TrainJob, folder: Path) -> dict[str, Any]:
    """Train the steps that are missing, write the policy and the result.

    A training that is finished already is recognised, and its result returned.
    """
    return run_unless_done(job, folder, lambda store: _run(job, store))


def _run(job: TrainJob, store: RunStore) -> dict[str, Any]:
    started = time.perf_counter()
    torch.set_num_threads(job.settings.threads)
    trainer = Trainer(job)
    policy, average = trainer.policy, trainer.ema.policy
    progress = Progress(
        store, *load_state(store.folder / STATE, policy, average, trainer.optimizer)
    )
    _describe(job, progress.n_done)
    with logged(job, store.folder, "train", "train") as logger:
        for row in progress.rows:
            logger.metrics(row["step"], row)
        take_steps(trainer, progress, logger)
        result = {
            "task": job.task.name,
            "init": job.runner.init,
            "n_steps": job.runner.n_steps,
            "n_parameters": sum(p.numel() for p in policy.model.parameters())
            + policy.n_encoder_parameters,
            "n_episodes": len(job.data.ends),
            "n_windows": len(job.train),
            "n_valid_windows": len(job.valid),
            **{
                k: _last(progress.rows, k)
                for k in ("loss", "val_loss", "success_rate", "mean_score")
            },
            "rollout_episodes": job.runner.rollout_episodes,
            "policy": POLICY,
            "policy_fingerprint": trainer.ema.policy.fingerprint(),
            "wall_s": round(time.perf_counter() - started, 1),
            **signature(job),
        }
        store.write_result(result)
        numbers = {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
        logger.finish(numbers, [], store.folder)
        return result


def _last(rows: list[dict[str, Any]], key: str) -> float | None:
    return next((float(row[key]) for row in reversed(rows) if key in row), None)


def _describe(job: TrainJob, n_done: int) -> None:
    log.info(
        "%s: %d episodes, %d windows to train on, %d to validate; horizon %d, %d observations, "
        "%d actions; %s; %s of %d, %s, seed %d",
        ", ".join(job.runner.files),
        len(job.data.ends),
        len(job.train),
        len(job.valid),
        job.policy_config.network.horizon,
        job.policy_config.network.n_obs_steps,
        job.policy_config.n_action_steps,
        f"from {job.runner.init}" if job.initial else "fresh weights",
        f"steps {n_done + 1} to {job.runner.n_steps}",
        job.runner.batch_size,
        precision(job.runner, job.settings.device),
        job.runner.seed,
    )


def render_training(result: Mapping[str, Any], folder: Path) -> str:
    """What a training ends with: losses, the folder, and the command that evaluates it."""
    title = f"{task_words(result)}  training  {result['n_steps']} steps"
    rows = [
        ("network", f"{result['n_parameters'] / 1e6:.2f} M parameters"),
        ("data", f"{result['n_episodes']} episodes, {result['n_windows']} windows"),
        ("loss", f"{result['loss']:.4f}"),
    ]
    if result["val_loss"] is not None:
        rows.append(("  validation", f"{result['val_loss']:.4f}"))
    if result["success_rate"] is not None:
        n = result["rollout_episodes"]
        low, high = wilson(round(result["success_rate"] * n), n)
        rows.append(
            ("rollouts", f"success {result['success_rate']:.2f} of {n}  [{low:.2f}, {high:.2f}]")
        )
    policy = folder / result["policy"]
    words = ["python", "run.py", f"task={result['task']}", f"task.checkpoint={policy}"]
    rows += [("policy", str(policy)), ("evaluate", shlex.join(words))]
    return underlined(title, named(rows))


TRAIN = Runner(TrainConfig, prepare_training, run_train, render_training)
