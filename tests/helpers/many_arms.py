"""Arms of a study that was never run: with names, verdicts and speed-ups as studies have them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from runners.metrics import Paired, paired, wilson
from runners.statistics import noninferiority, score_difference
from runners.store.reading import Run
from runners.studies.comparisons import Arm, Versus
from runners.studies.cost import Flops
from runners.studies.speeds import Speed

FLOPS = Flops(query=10, plain=100, share=0.1, executed_share=0.1)
RESULT = {"versions": {}, "latency": None, "task": "kitchen"}


def compared(wins: int, losses: int, n: int) -> Versus:
    """Against a baseline on `n` seeds, of which it won and lost these, at a margin of 5 points."""
    ours = {seed: seed >= losses for seed in range(n)}
    theirs = {seed: not n - wins <= seed for seed in range(n)}
    result = paired(ours, theirs)
    scores = {seed: float(ours[seed]) for seed in ours}
    score = score_difference(scores, scores, np.random.default_rng(0))
    assert isinstance(result, Paired)
    assert score is not None
    return Versus(
        baseline=run("baseline"),
        success=result,
        p_holm=result.p_value,
        noninferiority=noninferiority(wins, losses, n, 0.05),
        needed=100,
        power=0.5,
        score=score,
        won=[],
        lost=[],
    )


def run(name: str) -> Run:
    return Run(Path(name), {}, RESULT, {}, "finished", "")


def an_arm(label: str, versus: Versus | None, times: float | None = None, rate: float = 0.8) -> Arm:
    """One on Kitchen with 100 episodes."""
    speed = None if times is None else Speed(times, (0.9 * times, 1.1 * times), "batch 1")
    n_success = round(100 * rate)
    return Arm(
        number=1,
        run=run(label),
        label=label,
        stratum="kitchen",
        n=100,
        n_success=n_success,
        interval=wilson(n_success, 100),
        mean_score=rate,
        metrics={},
        flops=FLOPS,
        latency=None,
        versus=versus,
        is_baseline=versus is None,
        speed=speed,
    )


def many_arms(n: int) -> list[Arm]:
    """The unaccelerated arm and `n` more, most of them close to each other, as samplers are."""
    drawn = random.Random(0)
    found = [an_arm("none", None, 6.0, 0.84)]
    for i in range(n):
        loss = drawn.choice([0.0, 0.02, 0.05, 0.1, 0.8])
        label = drawn.choice(["ddpm-{} trailing", "bac, {} steps", "duquant W8A8, ddim-{} even"])
        versus = compared(3, 3 + round(80 * loss), 100)
        times = drawn.choice([12.0, 35.0, 60.0, 110.0, 200.0]) * drawn.uniform(0.95, 1.05)
        found.append(an_arm(label.format(i), versus, times, max(0.86 - loss, 0.0)))
    return [replace(arm, number=i) for i, arm in enumerate(found, 1)]
