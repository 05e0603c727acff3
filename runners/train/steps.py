"""The steps of a training: what is written on the way, and what an interrupt leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from policies import save_policy
from skipstep.interrupts import interrupted_after
from skipstep.whole_files import write_whole

from ..loggers import NullLogger
from ..store.files import read_rows
from ..store.folder import RunStore
from .state import save_state
from .trainer import Trainer

METRICS, STATE, POLICY = "metrics.jsonl", Path("checkpoints/state.safetensors"), "policy"
EVERY = ("log", "checkpoint", "val", "rollout")


class Progress:
    """How far a training is.

    Attributes:
        n_done: steps.
        losses: of the steps since the last row.
        rows: of metrics.jsonl, up to n_done.
    """

    def __init__(self, store: RunStore, n_done: int, losses: list[torch.Tensor]) -> None:
        self.store, self.n_done, self.losses = store, n_done, losses
        self.rows = [row for row in read_metrics(store.folder) if row["step"] <= n_done]

    def save(self, trainer: Trainer) -> None:
        """What the same command goes on from. The policy first: a state that says "done" has it."""
        save_policy(trainer.ema.policy, self.store.folder / POLICY, torch.float32)
        networks = trainer.policy, trainer.ema.policy, trainer.optimizer
        save_state(self.store.folder / STATE, *networks, self.n_done, self.losses)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.losses.clear()
        lines = "".join(json.dumps(r) + "\n" for r in self.rows)
        write_whole(self.store.folder / METRICS, lines)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / METRICS)


def take_steps(trainer: Trainer, progress: Progress, logger: NullLogger) -> None:
    """All steps that are missing. Ctrl-C and SIGTERM wait for the end of a step, which is kept."""
    n_steps, first = trainer.config.n_steps, progress.n_done
    try:
        with tqdm(
            total=n_steps, initial=first, desc=trainer.job.name, unit="step", disable=None
        ) as bar:
            for n in range(first, n_steps + 1):
                if n > first:
                    with interrupted_after():
                        progress.losses.append(trainer.update(n - 1))
                        progress.n_done = n
                    bar.update()
                if progress.losses and any(_due(trainer, what, n) for what in EVERY):
                    _row(trainer, progress, logger)
                    bar.set_postfix_str(f"loss {progress.rows[-1]['loss']:.4f}")
    except KeyboardInterrupt:
        if progress.n_done:
            progress.save(trainer)
        raise


def _due(trainer: Trainer, what: str, n: int) -> bool:
    every = getattr(trainer.config, f"{what}_every")
    return every > 0 and (n % every == 0 or n == trainer.config.n_steps)


def _row(trainer: Trainer, progress: Progress, logger: NullLogger) -> None:
    """Write what is due after the steps so far; a checkpoint closes a row of metrics, too."""
    config, n = trainer.config, progress.n_done
    row: dict[str, Any] = {
        "step": n,
        "loss": float(torch.stack(progress.losses).mean()),
        "lr": trainer.optimizer.param_groups[0]["lr"],
    }
    if not np.isfinite(row["loss"]):
        raise FloatingPointError(
            f"the loss is not finite at step {n}: lower runner.lr (it is {config.lr})"
        )
    if _due(trainer, "val", n) and len(trainer.job.valid):
        row["val_loss"] = trainer.validate()
    if _due(trainer, "rollout", n):
        row |= trainer.rollout()
    progress.add(row)
    logger.metrics(n, row)
    if _due(trainer, "checkpoint", n):
        progress.save(trainer)
