"""Ways of spending S update steps on a policy: plans, each with the words that made it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

import accel
from accel import (
    BacConfig,
    Calibration,
    HashAbConfig,
    UniformConfig,
    resolve,
    shared_plan,
    summarize,
)
from accel.caches.forecast_rules import ForecastSettings
from accel.caches.hash_ab import coefficients, offline_bias
from accel.plans.flops import equivalent_steps
from policies import DiffusionPolicy

from .measure import Program, answers
from .questions import Questions

KS = (0, 5, 8)
METRICS = ("cos", "mse", "l1")
KNOBS: dict[str, list[dict[str, Any]]] = {
    "linear": [{"damping": d} for d in (1.0, 0.5)],
    "lagrange": [{"damping": d, "trust": t} for d in (1.0, 0.5) for t in (3.0, 1.5)],
    "adams_bashforth": [{"damping": d, "trust": t} for d in (1.0, 0.5) for t in (3.0, 1.5)],
    "adams_bashforth_offline": [{"order": 2}, {"order": 1}],
    "fitted": [{"order": o, "ridge": r} for o in (2, 1) for r in (1e-3, 1e-2, 1e-1)],
}


@dataclass(frozen=True, eq=False)
class Candidate:
    """One setting of an arm.

    Attributes:
        program: what is run.
        words: the settings, as on the command line where there is a command line for them.
        config: of the cache, where it is one.
    """

    program: Program
    words: str
    config: Any = None


@dataclass(frozen=True, eq=False)
class Budget:
    """S update steps of one policy.

    Attributes:
        asked: queries on which settings that decide at run time are given their threshold.
    """

    policy: DiffusionPolicy
    calibration: Calibration
    steps: int
    asked: Questions

    def cached(self, config: Any) -> Candidate:
        """A cache of accel, its settings named where they are not the defaults."""
        default = type(config)()
        said = [
            f"{f.name}={getattr(config, f.name)}"
            for f in fields(config)
            if f.name != "name"
            and (f.name == "steps" or getattr(config, f.name) != getattr(default, f.name))
        ]
        plan = resolve(self.policy, config, self.calibration)
        return Candidate(Program(self.policy, plan), " ".join([config.name, *said]), config)

    def equivalent_steps(self, config: Any) -> float:
        plan = resolve(self.policy, config, self.calibration)
        return summarize(plan, self.policy).equivalent_steps

    def measured_steps(self, candidate: Candidate) -> float:
        """What ran, in steps of the whole network."""
        _, computed = answers(candidate.program, self.asked.obs, self.asked.noise())
        return equivalent_steps(self.policy, computed)

    def ddim(self, like: Any) -> Candidate:
        """As many steps of DDIM, nothing cached, as have the FLOPs of a cache."""
        plan = resolve(self.policy, like, self.calibration)
        n = max(1, round(self.policy.n_inference_steps * summarize(plan, self.policy).flops_share))
        short = self.policy.with_sampler(self.policy.config.sampler.with_steps("ddim", n))
        return Candidate(Program(short, None), f"sampler=ddim sampler.steps={n}")

    def without_last(self) -> Candidate:
        """Every N/S-th step from the first on: what "every p-th step" usually means."""
        n = self.policy.n_inference_steps
        steps = [i * n // self.steps for i in range(self.steps)]
        plan = shared_plan(self.policy, steps, f"every {n / self.steps:g}th step")
        return Candidate(Program(self.policy, plan), f"every {n / self.steps:g}th step from 0")

    def forecast_uniform(
        self, config: UniformConfig, settings: ForecastSettings, words: str
    ) -> Candidate:
        """The schedule of `uniform` with forecasts on all sites, which no cache of accel makes."""
        plan = resolve(self.policy, config)
        everywhere = list(range(len(plan.sites)))
        plan = replace(
            plan,
            method=f"{plan.method} {words}",
            alpha=coefficients(plan.mask, everywhere, settings, self.calibration),
            bias=offline_bias(plan.mask, everywhere, settings, self.calibration),
        )
        return Candidate(Program(self.policy, plan), f"quadratic steps={config.steps} {words}")

    def cheaper(self, config: BacConfig) -> BacConfig | None:
        """With fewer steps, so that with what the bubbling union adds it costs S steps of all."""
        for steps in range(config.steps, 1, -1):
            lower = replace(config, steps=steps)
            if self.equivalent_steps(lower) <= self.steps + 0.05:
                return lower
        return None


def block_schedules(steps: int) -> Iterator[BacConfig]:
    """Settings of BAC's layout: metric, k, budget."""
    for metric, budget, k in itertools.product(METRICS, ("block", "global"), KS):
        yield BacConfig(steps=steps, layout="block", metric=metric, budget=budget, k=k)


def forecasts(names: Sequence[str] = tuple(KNOBS)) -> Iterator[dict[str, Any]]:
    """Settings of forecasts."""
    for name in names:
        for knobs in KNOBS[name]:
            yield {"forecast": name, **knobs}


def with_forecast(schedule: BacConfig, **settings: Any) -> HashAbConfig:
    """hash_ab on a schedule of bac."""
    shared = {f.name: getattr(schedule, f.name) for f in fields(schedule) if f.name != "name"}
    return HashAbConfig(**shared, **settings)


def flops_share(program: Program, of: DiffusionPolicy, computed: np.ndarray | None = None) -> float:
    """By plan or by the cells that ran, of `of` with nothing accelerated."""
    if computed is None:
        computed = program.plan.mask if program.plan else resolve(program.policy, None).mask
    return accel.flops_share(program.policy, computed, of)
