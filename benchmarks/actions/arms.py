"""The arms: name -> family, and the settings among which the calibration queries choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from accel import BacConfig, HashAbConfig, UniformConfig
from accel.caches.forecast_rules import ForecastSettings
from accel.caches.hash_ab import SCOPES

from .candidates import (
    KNOBS,
    Budget,
    Candidate,
    block_schedules,
    forecasts,
    with_forecast,
)
from .transformer_caches import METHODS

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


def block(**settings: Any) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    return bac(layout="block", **settings)


def hash_ab(**settings: Any) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    return lambda b, pick: [b.cached(HashAbConfig(steps=b.steps, **settings))]


def any_block_schedule(b: Budget, pick: Pick) -> Iterable[Candidate]:
    """BAC's layout, S steps a block, whatever the bubbling union adds."""
    return (b.cached(config) for config in block_schedules(b.steps))


def block_at_equal_flops(b: Budget, pick: Pick) -> Iterable[Candidate]:
    lower = (b.cheaper(config) for config in block_schedules(b.steps))
    return (b.cached(config) for config in lower if config is not None)


def prefix_at_equal_flops(b: Budget, pick: Pick) -> Iterable[Candidate]:
    """Fewer whole-network steps, the rest of the FLOPs of S for the first layers."""
    for steps in range(max(2, b.steps // 2), b.steps):
        yield b.cached(BacConfig(steps=steps, extra=round(b.steps / steps - 1, 3)))


def any_forecast_on(arm: str) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    """Reuse and every forecast on the schedule that was chosen for another arm."""

    def candidates(b: Budget, pick: Pick) -> Iterable[Candidate]:
        chosen = pick(arm)
        if chosen is None:
            return
        for drift in (False, True):
            yield b.cached(with_forecast(chosen.config, forecast="reuse", drift=drift))
        for settings in forecasts():
            for scope in SCOPES:
                yield b.cached(with_forecast(chosen.config, scope=scope, drift=False, **settings))
            if settings["forecast"] != "adams_bashforth_offline":
                yield b.cached(with_forecast(chosen.config, **settings))

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


def transformer_cache(
    candidates: Callable[[Budget], Iterable[Candidate]],
) -> Callable[[Budget, Pick], Iterable[Candidate]]:
    return lambda b, pick: candidates(b)


ARMS: dict[str, ArmKind] = {
    "even": ArmKind("even", uniform(spacing="even")),
    "even without last": ArmKind("even without last", lambda b, pick: [b.without_last()]),
    "quadratic": ArmKind("quadratic", uniform(spacing="quadratic")),
    "quadratic like bac": ArmKind("quadratic", quadratic_like_bac),
    "cubic": ArmKind("cubic", uniform(spacing="power", power=3.0)),
    "ddim": ArmKind("ddim", lambda b, pick: [b.ddim(UniformConfig(steps=b.steps))]),
    "ddim like bac": ArmKind("ddim", lambda b, pick: [b.ddim(BacConfig(steps=b.steps))]),
    "bac": ArmKind("bac", bac()),
    "bac extra=0": ArmKind("bac extra=0", bac(extra=0.0)),
    "bac equal": ArmKind("bac equal", prefix_at_equal_flops),
    "acs": ArmKind("acs", block(k=0)),
    "acs global": ArmKind("acs global", block(k=0, budget="global")),
    "block": ArmKind("block", block()),
    "block mse": ArmKind("block mse", block(metric="mse")),
    "block chosen": ArmKind("block chosen", any_block_schedule),
    "block equal": ArmKind("block equal", block_at_equal_flops),
    "hash_ab": ArmKind("hash_ab", hash_ab()),
    **{
        f"hash_ab {forecast}": ArmKind(
            f"hash_ab {forecast}", hash_ab(forecast=forecast, damping=1.0, drift=False)
        )
        for forecast in FORECASTS
    },
    "hash_ab adams_bashforth bu": ArmKind(
        "hash_ab adams_bashforth bu", hash_ab(scope="bu", damping=1.0, drift=False)
    ),
    **{
        f"hash_ab {forecast} drift": ArmKind(
            f"hash_ab {forecast} drift", hash_ab(forecast=forecast, damping=1.0)
        )
        for forecast in ("reuse", "linear", "adams_bashforth")
    },
    "block adams_bashforth": ArmKind(
        "block adams_bashforth",
        hash_ab(layout="block", scope="bu", damping=1.0, drift=False),
    ),
    "block has_compat": ArmKind(
        "block has_compat",
        hash_ab(layout="block", forecast="has_compat", order=4, scope="bu", drift=False),
    ),
    "hash_ab chosen": ArmKind("hash_ab chosen", any_forecast_on("bac")),
    "hash_ab equal": ArmKind("hash_ab equal", any_forecast_on("bac equal")),
    **{
        f"{method} like bac": ArmKind(method, transformer_cache(candidates))
        for method, candidates in METHODS.items()
    },
    "quadratic linear": ArmKind("quadratic linear", quadratic_with("linear", chosen=False)),
    "quadratic fitted": ArmKind("quadratic fitted", quadratic_with("fitted", chosen=False)),
    "quadratic chosen": ArmKind("quadratic chosen", quadratic_with(*KNOBS)),
}
