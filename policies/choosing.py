"""Another sampler over a checkpoint's diffusion process, as a user chooses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from .sampling import (
    DEFAULTS,
    OF_KIND,
    SamplerConfig,
    SamplerTable,
    sampler_table,
    timesteps,
)
from .spacing import CHOSEN

CHECKPOINT = "checkpoint"
LATE = 0.95


def choose_sampler(
    base: SamplerConfig,
    kind: str = CHECKPOINT,
    steps: int | None = None,
    *,
    spacing: str | None = None,
    timesteps: Sequence[int] | None = None,
    power: float | None = None,
    eta: float | None = None,
    order: int | None = None,
    stochastic: bool | None = None,
) -> SamplerConfig:
    """Another sampler over the same diffusion process; None leaves a setting to its default.

    Args:
        base: of the checkpoint.
        kind: checkpoint (base's own), ddpm, ddim or dpmpp.
        steps: network calls of a query; None: as many as base, or as `timesteps` has.
        spacing: a name in `CHOSEN`, or checkpoint: the library's list. None: base's own list where
            steps are as many as base's, else trailing, or for kind=checkpoint the library's.
        timesteps: the list itself, the noisiest first.
        power: the exponent of spacing=power.
        eta: of ddim, 0 (deterministic) to 1 (as stochastic as ddpm).
        order: of dpmpp, 1 to 3 and at most the steps.
        stochastic: of dpmpp, the SDE form instead of the ODE form.

    Raises:
        ValueError: the setting, its value and what is allowed.

    Example:
        >>> choose_sampler(SamplerConfig(), "ddpm", 5).spacing
        'trailing'
    """
    if spacing is not None and spacing not in (CHECKPOINT, *CHOSEN):
        allowed = ", ".join((CHECKPOINT, *CHOSEN))
        raise ValueError(f"sampler.spacing must be one of {allowed}, got {spacing!r}")
    if power is not None and spacing != "power":
        raise ValueError(f"sampler.power needs sampler.spacing=power, got spacing {spacing}")
    if steps is not None and steps < 1:
        raise ValueError(f"sampler.steps must be at least 1, got {steps}")
    if timesteps is not None and spacing is not None:
        raise ValueError(f"sampler.timesteps excludes sampler.spacing, got both ({spacing!r})")
    if timesteps is not None and steps not in (None, len(timesteps)):
        raise ValueError(
            f"sampler.steps must be {len(timesteps)}, the length of sampler.timesteps, got {steps}"
        )
    own_kind = base.kind if kind == CHECKPOINT else kind
    n = len(timesteps) if timesteps is not None else steps or base.steps
    values = _of_kind(base, own_kind, n, {"eta": eta, "order": order, "stochastic": stochastic})
    if power is not None:
        values["power"] = power
    listed = _listed(base, kind, n, spacing, timesteps)
    return _plainest(base, replace(base, kind=own_kind, steps=n, **listed, **values))


def _of_kind(base: SamplerConfig, kind: str, n: int, asked: dict[str, Any]) -> dict[str, Any]:
    """The settings that only some kinds have."""
    for name, value in asked.items():
        if value is not None and OF_KIND[name] != kind:
            raise ValueError(
                f"sampler.{name} exists for {OF_KIND[name]} only, got {value} with {kind}"
            )
    usual = {name: DEFAULTS[name] for name, of in OF_KIND.items() if of != kind}
    usual |= {} if base.kind == kind or kind != "dpmpp" else {"order": min(DEFAULTS["order"], n)}
    return {**usual, **{name: value for name, value in asked.items() if value is not None}}


def _listed(
    base: SamplerConfig, kind: str, n: int, spacing: str | None, chosen: Sequence[int] | None
) -> dict[str, Any]:
    """Where the list comes from."""
    if chosen is not None:
        return {"timesteps": list(chosen), "spacing": None}
    if spacing is None and n == base.steps:
        return {}
    if spacing is None:
        spacing = (base.spacing or CHECKPOINT) if kind == CHECKPOINT else "trailing"
    return {"timesteps": None, "spacing": None if spacing == CHECKPOINT else spacing}


def _plainest(base: SamplerConfig, config: SamplerConfig) -> SamplerConfig:
    """The shortest description: what visits the checkpoint's own list is the checkpoint's sampler.

    So a run is recognised whichever way its sampler was said.
    """
    unlisted = {"spacing": None, "timesteps": None, "power": DEFAULTS["power"]}
    if config.kind == base.kind == "ddpm" and np.array_equal(timesteps(config), timesteps(base)):
        return base
    try:
        library = replace(config, **unlisted)
    except ValueError:  # the library has no such list
        return config
    return library if _same(sampler_table(library), sampler_table(config)) else config


def _same(one: SamplerTable, other: SamplerTable) -> bool:
    return all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(SamplerTable)
    )


def sampler_warnings(config: SamplerConfig) -> list[str]:
    """What a user should know of a sampler, as sentences."""
    t, n = timesteps(config), config.num_train_timesteps
    found = []
    if t[0] < LATE * n:
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
