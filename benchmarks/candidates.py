"""The arms of action_error.py: ways of spending S update steps, each with the words that made it.

Where an arm has several settings, the calibration's queries choose.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from accel import (
    BacConfig,
    CachePlan,
    Calibration,
    DeepCacheConfig,
    FirstBlockConfig,
    HashAbConfig,
    IntervalConfig,
    TaylorConfig,
    TeaCacheConfig,
    UniformConfig,
    resolve,
    shared_plan,
    summarize,
)
from accel.caches.forecast_rules import ForecastSettings
from accel.caches.hash_ab import SCOPES, coefficients, offline_bias
from accel.plans.flops import equivalent_steps
from policies import DiffusionPolicy

from .questions import Questions, ask

KNOBS: dict[str, list[dict[str, Any]]] = {
    "linear": [{"damping": d} for d in (1.0, 0.5)],
    "lagrange": [{"damping": d, "trust": t} for d in (1.0, 0.5) for t in (3.0, 1.5)],
    "adams_bashforth": [{"damping": d, "trust": t} for d in (1.0, 0.5) for t in (3.0, 1.5)],
    "adams_bashforth_offline": [{"order": 2}, {"order": 1}],
    "fitted": [{"order": o, "ridge": r} for o in (2, 1) for r in (1e-3, 1e-2, 1e-1)],
}
NEAR = 0.03  # FLOPs of "like bac" may be this much more or less
THRESHOLDS, HALVINGS = (1e-3, 1e2), 12


@dataclass(frozen=True, eq=False)
class Candidate:
    """One setting of an arm: what is run, and its words, where there are any on a command line."""

    policy: DiffusionPolicy
    plan: CachePlan | None
    words: str
    config: Any = None


@dataclass(frozen=True, eq=False)
class Budget:
    """S update steps of one policy; what decides at run time gets its threshold on `asked`."""

    policy: DiffusionPolicy
    calibration: Calibration
    steps: int
    asked: Questions

    def cached(self, config: Any) -> Candidate:
        """A cache of accel, its settings named where they are not the defaults."""
        default, words = type(config)(), [config.name]
        for setting in fields(config):
            value = getattr(config, setting.name)
            if setting.name == "steps" or value != getattr(default, setting.name):
                words.append(f"{setting.name}={value}")
        plan = resolve(self.policy, config, self.calibration)
        return Candidate(self.policy, plan, " ".join(words), config)

    def equivalent_steps(self, config: Any) -> float:
        plan = resolve(self.policy, config, self.calibration)
        return summarize(plan, self.policy).equivalent_steps

    @property
    def like_bac(self) -> float:
        """What bac's defaults cost, in whole steps."""
        return self.equivalent_steps(BacConfig(steps=self.steps))

    def measured_steps(self, candidate: Candidate) -> float:
        """What ran, in whole steps."""
        _, computed = ask(self.asked, candidate.policy, candidate.plan)
        return equivalent_steps(self.policy, computed)


Pick = Callable[[str], Candidate | None]
Arm = Callable[[Budget, Pick], Iterable[Candidate]]


def cache(kind: Callable[..., Any], **settings: Any) -> Arm:
    """One setting of a cache with S steps."""
    return lambda b, pick: [b.cached(kind(steps=b.steps, **settings))]


def without_last(b: Budget, pick: Pick) -> Iterator[Candidate]:
    """Every N/S-th step from the first on: what "every p-th step" usually means."""
    n = b.policy.n_inference_steps
    words = f"every {n / b.steps:g}th step"
    plan = shared_plan(b.policy, [i * n // b.steps for i in range(b.steps)], words)
    yield Candidate(b.policy, plan, f"{words} from 0")


def quadratic_like_bac(b: Budget, pick: Pick) -> Iterator[Candidate]:
    yield b.cached(UniformConfig(steps=round(b.like_bac), spacing="quadratic"))


def ddim_like(kind: Callable[..., Any]) -> Arm:
    """As many steps of DDIM, nothing cached, as have the FLOPs of a cache."""

    def arm(b: Budget, pick: Pick) -> Iterator[Candidate]:
        plan = resolve(b.policy, kind(steps=b.steps), b.calibration)
        share = summarize(plan, b.policy).flops_share
        n = max(1, round(b.policy.n_inference_steps * share))
        short = b.policy.with_sampler(b.policy.config.sampler.with_steps("ddim", n))
        yield Candidate(short, None, f"sampler=ddim sampler.steps={n}")

    return arm


def block_schedules(steps: int) -> Iterator[BacConfig]:
    """Settings of BAC's layout, S steps a block, whatever the bubbling union adds."""
    choices = itertools.product(("cos", "mse", "l1"), ("block", "global"), (0, 5, 8))
    for metric, budget, k in choices:
        yield BacConfig(steps=steps, layout="block", metric=metric, budget=budget, k=k)


def block_at_equal_flops(b: Budget, pick: Pick) -> Iterator[Candidate]:
    """With fewer steps a block: with what the bubbling union adds they cost S whole ones."""
    for config in block_schedules(b.steps):
        lower = (replace(config, steps=steps) for steps in range(b.steps, 1, -1))
        fits = (found for found in lower if b.equivalent_steps(found) <= b.steps + 0.05)
        if (found := next(fits, None)) is not None:
            yield b.cached(found)


def prefix_at_equal_flops(b: Budget, pick: Pick) -> Iterator[Candidate]:
    """Fewer whole-network steps, the rest of the FLOPs of S for the first layers."""
    for steps in range(max(2, b.steps // 2), b.steps):
        yield b.cached(BacConfig(steps=steps, extra=round(b.steps / steps - 1, 3)))


def forecasts() -> Iterator[dict[str, Any]]:
    for name, choices in KNOBS.items():
        for knobs in choices:
            yield {"forecast": name, **knobs}


def any_forecast_on(arm: str) -> Arm:
    """Reuse and every forecast on the schedule that was chosen for another arm."""

    def candidates(b: Budget, pick: Pick) -> Iterator[Candidate]:
        chosen = pick(arm)
        if chosen is None:
            return
        schedule = {
            f.name: getattr(chosen.config, f.name)
            for f in fields(chosen.config)
            if f.name != "name"
        }
        for drift in (False, True):
            yield b.cached(HashAbConfig(**schedule, forecast="reuse", drift=drift))
        for settings in forecasts():
            for scope in SCOPES:
                yield b.cached(HashAbConfig(**schedule, scope=scope, drift=False, **settings))
            if settings["forecast"] != "adams_bashforth_offline":
                yield b.cached(HashAbConfig(**schedule, **settings))

    return candidates


def quadratic_with(choices: Callable[[], Iterable[Mapping[str, Any]]]) -> Arm:
    """The quadratic schedule with forecasts on all sites, which no cache of accel makes."""

    def candidates(b: Budget, pick: Pick) -> Iterator[Candidate]:
        plan = resolve(b.policy, UniformConfig(steps=b.steps, spacing="quadratic"))
        sites = list(range(len(plan.sites)))
        for chosen in choices():
            settings = ForecastSettings(**chosen)
            words = " ".join(f"{name}={value}" for name, value in chosen.items())
            forecast = replace(
                plan,
                method=f"{plan.method} {words}",
                alpha=coefficients(plan.mask, sites, settings, b.calibration),
                bias=offline_bias(plan.mask, sites, settings, b.calibration),
            )
            yield Candidate(b.policy, forecast, f"quadratic steps={b.steps} {words}")

    return candidates


def last_steps(n_steps: int) -> tuple[int, ...]:
    """How many of the last steps are all computed."""
    return n_steps // 10, n_steps // 20, 0


def intervals(b: Budget) -> Iterator[IntervalConfig]:
    """Windows of all blocks, or of all but the first or the last one; the last step is computed."""
    n, depth = b.policy.n_inference_steps, b.policy.sizes.n_layer
    windows = [(0, None)] + ([(1, depth - 1), (0, depth - 1)] if depth > 1 else [])
    for start, interval, (first, width) in itertools.product(
        range(n // 5), range(2, n // 5), windows
    ):
        if (n - 1 - start) % interval == 0:
            yield IntervalConfig(start=start, interval=interval, first_block=first, n_blocks=width)


def deepcaches(b: Budget) -> Iterator[DeepCacheConfig]:
    n = b.policy.n_inference_steps
    for last, interval in itertools.product(last_steps(n), range(2, n)):
        yield DeepCacheConfig(compute_end=n - last, compute_interval=interval)


def taylors(b: Budget) -> Iterator[TaylorConfig]:
    n = b.policy.n_inference_steps
    for last, warm_up, interval in itertools.product(last_steps(n), (1, 3), range(2, n // 3)):
        for order, basis in ((1, "newton"), (2, "newton"), (2, "compat")):
            yield TaylorConfig(
                order=order, warm_up=warm_up, cool_down=last, interval=interval, basis=basis
            )


def fitting(configs: Callable[[Budget], Iterable[Any]]) -> Arm:
    """All settings that cost what bac does by default."""

    def candidates(b: Budget, pick: Pick) -> Iterator[Candidate]:
        wanted = b.like_bac
        for config in configs(b):
            if abs(b.equivalent_steps(config) / wanted - 1) <= NEAR:
                yield b.cached(config)

    return candidates


def deciding(kind: Callable[..., Any]) -> Arm:
    """Settings with the threshold that makes what runs cost what bac does, if any."""

    def candidates(b: Budget, pick: Pick) -> Iterator[Candidate]:
        wanted = b.like_bac
        for last in last_steps(b.policy.n_inference_steps):
            low, high = THRESHOLDS
            for _ in range(HALVINGS):
                middle = float(f"{np.sqrt(low * high):.3g}")
                candidate = b.cached(kind(cool_down=last, threshold=middle))
                found = b.measured_steps(candidate) / wanted - 1
                if abs(found) <= NEAR / 3:
                    break
                low, high = (middle, high) if found > 0 else (low, middle)
            if abs(found) <= NEAR:
                yield candidate

    return candidates


PLAIN_AB = {"damping": 1.0, "drift": False}  # Adams-Bashforth as in its paper
ARMS: dict[str, Arm] = {
    "even": cache(UniformConfig, spacing="even"),
    "even without last": without_last,
    "quadratic": cache(UniformConfig, spacing="quadratic"),
    "quadratic like bac": quadratic_like_bac,
    "cubic": cache(UniformConfig, spacing="power", power=3.0),
    "ddim": ddim_like(UniformConfig),
    "ddim like bac": ddim_like(BacConfig),
    "bac": cache(BacConfig),
    "bac extra=0": cache(BacConfig, extra=0.0),
    "bac equal": prefix_at_equal_flops,
    "acs": cache(BacConfig, layout="block", k=0),
    "acs global": cache(BacConfig, layout="block", k=0, budget="global"),
    "block": cache(BacConfig, layout="block"),
    "block mse": cache(BacConfig, layout="block", metric="mse"),
    "block chosen": lambda b, pick: map(b.cached, block_schedules(b.steps)),
    "block equal": block_at_equal_flops,
    "hash_ab": cache(HashAbConfig),
    **{
        f"hash_ab {name}": cache(HashAbConfig, forecast=name, **PLAIN_AB)
        for name in ("reuse", *KNOBS)
    },
    "hash_ab adams_bashforth bu": cache(HashAbConfig, scope="bu", **PLAIN_AB),
    **{
        f"hash_ab {name} drift": cache(HashAbConfig, forecast=name, damping=1.0)
        for name in ("reuse", "linear", "adams_bashforth")
    },
    "block adams_bashforth": cache(HashAbConfig, layout="block", scope="bu", **PLAIN_AB),
    "block has_compat": cache(
        HashAbConfig, layout="block", forecast="has_compat", order=4, scope="bu", drift=False
    ),
    "hash_ab chosen": any_forecast_on("bac"),
    "hash_ab equal": any_forecast_on("bac equal"),
    "interval like bac": fitting(intervals),
    "deepcache like bac": fitting(deepcaches),
    "taylor like bac": fitting(taylors),
    "teacache like bac": deciding(TeaCacheConfig),
    "first_block like bac": deciding(FirstBlockConfig),
    "quadratic linear": quadratic_with(lambda: [{"forecast": "linear"}]),
    "quadratic fitted": quadratic_with(lambda: [{"forecast": "fitted"}]),
    "quadratic chosen": quadratic_with(forecasts),
}
