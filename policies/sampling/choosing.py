"""Another sampler over a checkpoint's diffusion process, as a user chooses it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import numpy as np

from .config import DEFAULTS, OF_KIND, SamplerConfig
from .flow import check_prediction
from .numbers import number, whole
from .samplers import KINDS, ORDERS
from .spacing import CHOSEN
from .table import SamplerTable, sampler_table, timesteps

CHECKPOINT = "checkpoint"
LATE = 0.95


def choose_sampler(
    base: SamplerConfig,
    kind: str = CHECKPOINT,
    steps: int | None = None,
    *,
    spacing: str | None = None,
    timesteps: Iterable[int] | None = None,
    power: float | None = None,
    eta: float | None = None,
    order: int | None = None,
    stochastic: bool | None = None,
    variance_type: str | None = None,
) -> SamplerConfig:
    """Another sampler over the same diffusion process; None leaves a setting to its default.

    Args:
        base: of the checkpoint.
        kind: checkpoint (base's own), ddpm, ddim or dpmpp; of flow matching euler or rk4.
        steps: network calls of a query (of rk4 a quarter of them); None: as many as base, or as
            `timesteps` has. The only setting of euler and rk4.
        spacing: a name in `CHOSEN`, or checkpoint: the library's list. None: base's own list where
            steps are as many as base's, else trailing, or for kind=checkpoint the library's.
        timesteps: the list itself, the noisiest first.
        power: the exponent of spacing=power.
        eta: of ddim, 0 (deterministic) to 1 (as stochastic as ddpm).
        order: of dpmpp, 1 to 3 and at most the steps.
        stochastic: of dpmpp, the SDE form instead of the ODE form.
        variance_type: of ddpm, how much noise a step adds: fixed_small (or
            fixed_small_log, the same), fixed_large: more; None: base's.

    Raises:
        ValueError: the setting, its value and what is allowed.

    Example:
        >>> choose_sampler(SamplerConfig(), "ddpm", 5).spacing
        'trailing'
    """
    _check_kind(kind)
    steps = None if steps is None else whole("steps", steps)
    if steps is not None and steps < 1:
        raise ValueError(f"sampler.steps must be at least 1, got {steps}")
    own = base.kind if kind == CHECKPOINT else kind
    check_prediction(own, base.prediction_type, list(KINDS))
    if base.is_flow:
        others = {"spacing": spacing, "timesteps": timesteps, "power": power, "eta": eta}
        others |= {"order": order, "stochastic": stochastic, "variance_type": variance_type}
        _check_flow_settings(own, others)
        return replace(base, kind=own, steps=steps or base.steps)
    _check_names(spacing, power)
    listed = None if timesteps is None else [whole("timesteps", t) for t in timesteps]
    if listed is not None and spacing is not None:
        raise ValueError(f"sampler.timesteps excludes sampler.spacing, got both ({spacing!r})")
    if listed is not None and steps not in (None, len(listed)):
        raise ValueError(
            f"sampler.steps must be {len(listed)}, the length of sampler.timesteps, got {steps}"
        )
    n = len(listed) if listed is not None else steps or base.steps
    asked = {"eta": eta, "order": order, "stochastic": stochastic}
    values = _of_kind(base, kind, n, {k: v for k, v in asked.items() if v is not None})
    values |= _listed(base, kind, n, spacing, listed)
    values |= _variance(values["kind"], variance_type)
    values["power"] = DEFAULTS["power"] if power is None else power
    if values["spacing"] == "power" and power is None and spacing is None:
        values["power"] = base.power  # the checkpoint's own list
    return _plainest(base, replace(base, steps=n, **values))


def _check_kind(kind: str) -> None:
    if kind not in (CHECKPOINT, *KINDS):
        raise ValueError(f"sampler must be one of {', '.join((CHECKPOINT, *KINDS))}, got {kind!r}")


def _check_names(spacing: str | None, power: float | None) -> None:
    if spacing is not None and spacing not in (CHECKPOINT, *CHOSEN):
        allowed = ", ".join((CHECKPOINT, *CHOSEN))
        raise ValueError(f"sampler.spacing must be one of {allowed}, got {spacing!r}")
    if power is not None and spacing != "power":
        raise ValueError(f"sampler.power needs sampler.spacing=power, got spacing {spacing}")


def _check_flow_settings(kind: str, asked: dict[str, Any]) -> None:
    for name, value in asked.items():
        if value is not None:
            raise ValueError(
                f"sampler.{name} is of diffusion, got {value} with sampler={kind}, which follows a "
                "velocity: it has sampler.steps alone"
            )


def _of_kind(base: SamplerConfig, kind: str, n: int, asked: dict[str, Any]) -> dict[str, Any]:
    """The kind, and the settings that only some kinds have."""
    own = base.kind if kind == CHECKPOINT else kind
    for name, value in asked.items():
        if OF_KIND[name] != own:
            raise ValueError(
                f"sampler.{name} exists for {OF_KIND[name]} only, got {value} with {own}"
            )
    values = {name: DEFAULTS[name] for name in OF_KIND}
    if kind == CHECKPOINT:
        values |= {name: getattr(base, name) for name in OF_KIND}
    elif own == base.kind == "ddim":
        values["eta"] = base.eta
    if own == "dpmpp":
        values["order"] = min(values["order"], n)
    if "eta" in asked:
        asked["eta"] = number("eta", asked["eta"])
    return {"kind": own, **values, **asked}


def _variance(kind: str, asked: str | None) -> dict[str, Any]:
    """Of ddpm only; other kinds keep what their checkpoint says, and do not read it."""
    if asked is None:
        return {}
    if kind != "ddpm":
        raise ValueError(f"sampler.variance_type exists for ddpm only, got {asked} with {kind}")
    return {"variance_type": asked}


def _listed(
    base: SamplerConfig, kind: str, n: int, spacing: str | None, chosen: list[int] | None
) -> dict[str, Any]:
    """Where the list comes from."""
    if chosen is not None:
        return {"timesteps": chosen, "spacing": None}
    if spacing is None and n == base.steps:
        if kind == "ddim" != base.kind and not base.is_chosen:  # its aim is not the library's
            return {"timesteps": timesteps(base).tolist(), "spacing": None}
        return {"timesteps": base.timesteps, "spacing": base.spacing}
    if spacing is None:
        spacing = (base.spacing or CHECKPOINT) if kind == CHECKPOINT else "trailing"
    return {"timesteps": None, "spacing": None if spacing == CHECKPOINT else spacing}


NAMED = ("trailing", "even", "quadratic")


def _plainest(base: SamplerConfig, config: SamplerConfig) -> SamplerConfig:
    """The shortest description of what is computed: a run is recognised however it was said.

    What visits a DDPM checkpoint's own list is the checkpoint's sampler, and what computes the same
    as another sampler is that one: the checkpoint's, the library's, a named list, a lower order.
    """
    config = _plainest_variance(base, config)
    if config.kind == base.kind == "ddpm" and np.array_equal(timesteps(config), timesteps(base)):
        return replace(base, variance_type=config.variance_type)
    unlisted = {"timesteps": None, "power": DEFAULTS["power"]}
    table = _without_eta(config)
    lower = (order for order in ORDERS if order < config.order and config.kind == "dpmpp")
    orders = (*lower, config.order)
    for order, spacing in itertools.product(orders, (None, *NAMED)):
        if order == config.order and spacing == config.spacing and config.timesteps is None:
            return config
        with suppress(ValueError):  # the library may have no such list
            simpler = replace(config, **unlisted, spacing=spacing, order=order)
            if _same(_without_eta(simpler), table):
                return simpler
    return config


def _plainest_variance(base: SamplerConfig, config: SamplerConfig) -> SamplerConfig:
    """fixed_small_log adds the noise of fixed_small, and a single step adds none of any."""
    for plainer in (base.variance_type, DEFAULTS["variance_type"]):
        same = replace(config, variance_type=plainer)
        if same == config or _same(sampler_table(same), sampler_table(config)):
            return same
    return config


def _without_eta(config: SamplerConfig) -> SamplerTable:
    """What is visited and aimed at; with eta a chosen list is not rounded as the library's is."""
    return sampler_table(replace(config, eta=DEFAULTS["eta"]))


def _same(one: SamplerTable, other: SamplerTable) -> bool:
    return all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(SamplerTable)
    )


def sampler_warnings(config: SamplerConfig) -> list[str]:
    """What a user should know of a sampler, as sentences."""
    if config.is_flow:
        return []
    t, n = timesteps(config), config.num_train_timesteps
    found = []
    if t[0] < min(LATE * n, n - 1):
        found.append(
            f"the sampler ({config.kind}, {config.steps} steps) starts at timestep {t[0]} of {n} "
            "from pure noise, which a trajectory there is not: sampler.spacing=trailing starts at "
            f"{n - 1}"
        )
    aims = t - n // config.steps
    if config.kind == "ddim" and not config.is_chosen and not np.array_equal(aims[:-1], t[1:]):
        found.append(
            f"as in its library, DDIM with timestep_spacing={config.timestep_spacing} aims each "
            f"step at t - {n // config.steps}, not at the next timestep of its list: "
            "sampler=ddim with sampler.spacing aims right"
        )
    return found
