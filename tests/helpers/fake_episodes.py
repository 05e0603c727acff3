"""Episodes without a simulator, for whole runs in this process: an outcome is made of its seed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runners import cli
from runners.acceleration import play as playing
from runners.episodes.episode import EpisodeResult
from tests.helpers.places import FIXTURES

FIXTURE = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"
SMALL = (
    f"task.checkpoint={FIXTURE}",
    "engine=reference",
    "latency.repeats=0",
    "threads=1",
    "logger=none",
    "n_envs=1",
)


def result(seed: int, policy: Any) -> EpisodeResult:
    """As if it had been played; three quarters succeed."""
    n = seed % 5
    details = {"n_completed": n, "completed_tasks": []}
    seen = np.full((1, policy.n_obs_steps, policy.obs_dim), float(seed))
    return EpisodeResult(
        seed, "ok", seed % 4 != 3, n / 7, 10, 1, 0.1, 1, details, observations=seen
    )


def fake(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[Any, int], None] = lambda policy, seed: None
) -> list[int]:
    """Evaluations play nothing; `before` may raise. Returns the seeds that were asked for."""
    played: list[int] = []

    def evaluate(
        policy: Any,
        task: Any,
        seeds: Sequence[int],
        *_: Any,
        video_of: Callable[[int], Path | None],
        **__: Any,
    ) -> Iterator[EpisodeResult]:
        for seed in seeds:
            before(policy, seed)
            played.append(seed)
            video = video_of(seed)
            if video:
                video.parent.mkdir(exist_ok=True)
                video.write_bytes(b"film")
            name = str(video.absolute()) if video else None
            yield replace(result(seed, policy.policy), video=name)

    monkeypatch.setattr(playing, "evaluate", evaluate)
    return played


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["run.py"])
    return cli.run([*SMALL, *words])
