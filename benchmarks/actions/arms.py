"""The arms: name -> family, and the settings among which the calibration queries choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from accel import BacConfig, UniformConfig
from accel.caches.hash_ab import SCOPES
from accel.rules import ForecastSettings

from .candidates import KNOBS, Budget, Candidate, forecasts, schedules, with_forecast

Pick = Callable[[str], Candidate | None]
FORECASTS = ("reuse", *KNOBS)


class ArmKind(NamedTuple):
    """A row of the table at every S.

    family: one line of the plot.
    candidates: (budget, the chosen setting of another arm by its name) -> settings; where there is
        more than one, the calibration queries choose.
    """

    family: str
    candidates: Callable[[Budget, Pick], Iterable[Candidate]]


def uniform(**settings: Any) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    return lambda b, pick: [b.cached(UniformConfig(steps=b.steps, **settings))]


def bac(**settings: Any) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    return lambda b, pick: [b.cached(BacConfig(steps=b.steps, **settings))]


def hash_ab(**settings: Any) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    return lambda b, pick: [b.cached(with_forecast(BacConfig(steps=b.steps), **settings))]


def any_schedule(b: Budget, pick: Pick) -> Iterable[Candidate]:
    """S steps a block, whatever the bubbling union adds."""
    return (b.cached(config) for config in schedules(b.steps))


def any_schedule_at_equal_flops(b: Budget, pick: Pick) -> Iterable[Candidate]:
    lower = (b.cheaper(config) for config in schedules(b.steps))
    return (b.cached(config) for config in lower if config is not None)


def knobs_of(forecast: str) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    """One forecast on the default schedule."""

    def candidates(b: Budget, pick: Pick) -> Iterable[Candidate]:
        schedule = BacConfig(steps=b.steps)
        for settings in forecasts([forecast]):
            for scope in SCOPES:
                yield b.cached(with_forecast(schedule, scope=scope, **settings))

    return candidates


def any_forecast_on(arm: str) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    """Reuse and every forecast on the schedule that was chosen for another arm."""

    def candidates(b: Budget, pick: Pick) -> Iterable[Candidate]:
        chosen = pick(arm)
        if chosen is None:
            return
        yield b.cached(with_forecast(chosen.config, forecast="reuse"))
        for settings in forecasts():
            for scope in SCOPES if chosen.config.k else ["all"]:
                yield b.cached(with_forecast(chosen.config, scope=scope, **settings))

    return candidates


def quadratic_with(
    *names: str, chosen: bool = True
) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    """The quadratic schedule with forecasts everywhere; every knob, or the defaults."""

    def candidates(b: Budget, pick: Pick) -> Iterable[Candidate]:
        config = UniformConfig(steps=b.steps, spacing="quadratic")
        options = forecasts(names) if chosen else ({"forecast": name} for name in names)
        for settings in options:
            words = " ".join(f"{k}={v}" for k, v in settings.items())
            yield b.forecast_uniform(config, ForecastSettings(**settings), words)

    return candidates


def quadratic_like_bac(b: Budget, pick: Pick) -> Iterable[Candidate]:
    """The quadratic schedule with the FLOPs of bac's defaults."""
    steps = round(b.equivalent_steps(BacConfig(steps=b.steps)))
    return [b.cached(UniformConfig(steps=steps, spacing="quadratic"))]


ARMS: dict[str, ArmKind] = {
    "even": ArmKind("even", uniform(spacing="even")),
    "even without last": ArmKind("even without last", lambda b, pick: [b.without_last()]),
    "quadratic": ArmKind("quadratic", uniform(spacing="quadratic")),
    "quadratic like bac": ArmKind("quadratic", quadratic_like_bac),
    "cubic": ArmKind("cubic", uniform(spacing="power", power=3.0)),
    "ddim": ArmKind("ddim", lambda b, pick: [b.ddim(UniformConfig(steps=b.steps))]),
    "ddim like bac": ArmKind("ddim", lambda b, pick: [b.ddim(BacConfig(steps=b.steps))]),
    "acs": ArmKind("acs", bac(k=0)),
    "acs global": ArmKind("acs global", bac(k=0, budget="global")),
    "bac": ArmKind("bac", bac()),
    "bac global": ArmKind("bac global", bac(budget="global")),
    "bac mse": ArmKind("bac mse", bac(metric="mse")),
    "bac l1": ArmKind("bac l1", bac(metric="l1")),
    "bac chosen": ArmKind("bac chosen", any_schedule),
    "bac equal": ArmKind("bac equal", any_schedule_at_equal_flops),
    **{
        f"hash_ab {forecast} {scope}": ArmKind(
            f"hash_ab {forecast} {scope}", hash_ab(forecast=forecast, scope=scope)
        )
        for forecast in FORECASTS
        for scope in SCOPES
    },
    **{
        f"hash_ab {forecast} chosen": ArmKind(f"hash_ab {forecast} chosen", knobs_of(forecast))
        for forecast in KNOBS
    },
    "hash_ab chosen": ArmKind("hash_ab chosen", any_forecast_on("bac chosen")),
    "hash_ab equal": ArmKind("hash_ab equal", any_forecast_on("bac equal")),
    "quadratic linear": ArmKind("quadratic linear", quadratic_with("linear", chosen=False)),
    "quadratic fitted": ArmKind("quadratic fitted", quadratic_with("fitted", chosen=False)),
    "quadratic chosen": ArmKind("quadratic chosen", quadratic_with(*KNOBS)),
}
