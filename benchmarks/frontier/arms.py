"""The arms of the study: few-step samplers, caches, both, and quantisation on the best.

Each arm is what `python run.py experiment=frontier task=TASK ...` is given besides.
"""

from __future__ import annotations

from dataclasses import dataclass

from runners.studies.arms import listed


@dataclass(frozen=True)
class Arm:
    """One way of making the policy cheaper.

    Attributes:
        name: in tables.
        overrides: of the command line.
        question: which question of the study it belongs to.
    """

    name: str
    overrides: tuple[str, ...]
    question: str


def few(kind: str, steps: int, spacing: str = "trailing", **settings: object) -> Arm:
    """A sampler with few steps, nothing cached."""
    chosen = (f"sampler.{name}={value}" for name, value in settings.items())
    words = " ".join([spacing, *(f"{name} {value}" for name, value in settings.items())])
    return Arm(
        f"{kind}-{steps} {words}",
        (f"sampler={kind}", f"sampler.steps={steps}", f"sampler.spacing={spacing}", *chosen),
        "steps",
    )


def at(*timesteps: int, base: str = "ddpm") -> Arm:
    """A list of timesteps."""
    words = ",".join(str(t) for t in timesteps)
    return Arm(
        f"{base}-{len(timesteps)} at {listed(timesteps)}",
        (f"sampler={base}", f"sampler.timesteps=[{words}]"),
        "ablation",
    )


def cached(name: str, steps: int, *more: str, question: str = "caches") -> Arm:
    """A cache on the checkpoint's own sampler."""
    return Arm(f"{name} S = {steps}", (f"cache={name}", f"cache.steps={steps}", *more), question)


def warm(steps: int, start: int, **settings: object) -> Arm:
    """Few steps, of which a query that follows another computes those from `start` on."""
    chosen = (f"warm.{name}={value}" for name, value in settings.items())
    words = ", ".join([f"warm from {start}", *(f"{k} {v}" for k, v in settings.items())])
    return Arm(
        f"ddpm-{steps} trailing, {words}",
        ("sampler=ddpm", f"sampler.steps={steps}", "warm=chunk", f"warm.from={start}", *chosen),
        "warm",
    )


PLAIN = Arm("unaccelerated", (), "steps")
TEN = ("sampler=ddpm", "sampler.steps=10")
W8A8 = ("quant=duquant",)

FIRST = [
    *(few("ddpm", n) for n in (5, 10, 3, 4, 7, 20, 50)),
    *(few("ddim", n) for n in (5, 10, 20)),
    *(few("dpmpp", n) for n in (5, 10, 20)),
    *(few("dpmpp", n, stochastic="true") for n in (5, 10, 20)),
    *(few("ddim", n, eta=1) for n in (5, 10, 20)),
]
SPACED = [few("ddpm", n, s) for s in ("even", "quadratic") for n in (5, 10, 3, 4, 7, 20)]
CACHES = [
    # 10, 20 and 30 % of the FLOPs of 100 steps; bac and hash_ab take as many again on first layers
    *(cached("uniform", n) for n in (8, 18, 28)),
    *(cached(name, n) for name in ("bac", "hash_ab") for n in (4, 9, 14)),
]
ON_TOP = [
    Arm(
        "ddpm-10 trailing, uniform S = 5",
        (*TEN, "cache=uniform", "cache.steps=5"),
        "on top",
    ),
    *(
        Arm(f"ddpm-10 trailing, {name} S = 2", (*TEN, f"cache={name}", "cache.steps=2"), "on top")
        for name in ("bac", "hash_ab")
    ),
]
QUANTISED = [
    Arm("ddpm-5 trailing, W8A8", ("sampler=ddpm", "sampler.steps=5", *W8A8), "quantised"),
    Arm("ddpm-10 trailing, W8A8", (*TEN, *W8A8), "quantised"),
]
LARGE = ("sampler=ddpm", "sampler.variance_type=fixed_large")  # shipped policies have fixed_small
WHY = [
    at(99, 74, 49, 24, 0),
    at(99, 79, 59, 39, 5),
    at(99, 79, 59, 39, 30),
    at(*range(99, 8, -1)),  # a hundred without the last nine, which ten trailing have not either
    at(*range(99, 9, -10), *range(9, -1, -1)),  # ten trailing, and those nine
    few("ddim", 100, "checkpoint"),
    few("ddim", 100, "checkpoint", eta=1),
    Arm("ddpm-5 trailing fixed_large", (*LARGE, "sampler.steps=5"), "ablation"),
    Arm("ddpm-100 fixed_large", LARGE, "ablation"),
]
WARM = [
    *(few("ddpm", n) for n in (1, 2)),  # what costs as much as a warm query of one or two calls
    *(warm(5, k) for k in (4, 3, 2, 1)),
    *(warm(4, k) for k in (3, 2, 1)),
    *(warm(3, k) for k in (2, 1)),
    *(warm(10, k) for k in (8, 7, 5)),
    Arm("ddpm-4 trailing, warm from 2, W8A8", (*warm(4, 2).overrides, *W8A8), "warm"),
]
ARMS = [PLAIN, *FIRST, *SPACED, *CACHES, *ON_TOP, *QUANTISED, *WHY, *WARM]
