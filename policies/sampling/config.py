"""The settings of a sampler, checked: diffusers' own, and what was chosen instead of its lists."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from ..typed import check_types
from .flow import CALLS, SETTINGS, VELOCITY, check_flow, check_prediction
from .numbers import number, whole
from .samplers import KINDS, ORDERS
from .spacing import CHOSEN, LIBRARY, timesteps

ALLOWED: dict[str, Collection[Any]] = {
    "kind": KINDS,
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
    "prediction_type": ("epsilon", "sample", "v_prediction", VELOCITY),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large"),
    "timestep_spacing": tuple(LIBRARY),
    "spacing": tuple(CHOSEN),
    "order": ORDERS,
}
MOST = {
    "num_train_timesteps": 10**5,
    **dict.fromkeys(("steps", "steps_offset", "timesteps", "trained_betas"), 10**5),
}
OF_KIND = {"eta": "ddim", "order": "dpmpp", "stochastic": "dpmpp"}
"""Settings that only one kind of sampler has."""
NEW = ("spacing", "timesteps", "power", "order", "stochastic", "sigma_min")
"""Settings that are written down only where they differ from their default.

Fingerprints, plans and run folders of policies without them are as they were.
"""


@dataclass
class SamplerConfig:
    """Settings of a sampler, under diffusers' names; `steps` is the network calls of a query.

    prediction_type: what the network says: noise (epsilon), clean actions (sample), v_prediction,
        or the velocity of flow matching, which kinds in `flow.CALLS` follow and no others; a step
        of rk4 is four calls. Of theirs are kind, steps and sigma_min alone.
    spacing, timesteps: the list that is visited, chosen here instead of by the library's
        `timestep_spacing`: a name in `CHOSEN` (`power` is the exponent of spacing=power), or the
        timesteps themselves, the noisiest first.
    order, stochastic: of DPM-Solver++; eta: of DDIM; sigma_min: noise that flow matching leaves in
        the actions.

    Example:
        >>> timesteps(SamplerConfig(steps=5, spacing="trailing")).tolist()
        [99, 79, 59, 39, 19]
    """

    kind: str = "ddpm"
    steps: int = 100
    num_train_timesteps: int = 100
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "squaredcos_cap_v2"
    trained_betas: list[float] | None = None
    prediction_type: str = "epsilon"
    variance_type: str = "fixed_small"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False
    eta: float = 0.0
    use_clipped_model_output: bool = False
    spacing: str | None = None
    timesteps: list[int] | None = None
    power: float = 3.0
    order: int = 2
    stochastic: bool = False
    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        self._plain_types()
        check_types(self, "sampler", MOST)
        for name, allowed in ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed and not (name == "spacing" and value is None):
                words = ", ".join(str(a) for a in allowed)
                raise ValueError(f"sampler.{name} must be one of {words}, got {value!r}")
        check_prediction(self.kind, self.prediction_type, list(KINDS))
        if self.is_flow:
            check_flow(self, DEFAULTS)
            return
        if self.num_train_timesteps < 1:
            raise ValueError(
                f"sampler.num_train_timesteps must be at least 1, got {self.num_train_timesteps}"
            )
        if self.timesteps is not None:
            self._check_timesteps(self.timesteps)
        if not 1 <= self.steps <= self.num_train_timesteps:
            raise ValueError(
                f"sampler.steps must be from 1 to {self.num_train_timesteps} "
                f"(the timesteps of the training), got {self.steps}"
            )
        self._check_kind()
        self._check_ranges()
        if not 1 <= self.power <= 10:
            raise ValueError(f"sampler.power must be from 1 to 10, got {self.power}")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"sampler.trained_betas must hold num_train_timesteps = {self.num_train_timesteps} "
                f"numbers, got {len(self.trained_betas)}"
            )
        listed = timesteps(self)
        if (last := int(listed.max())) >= self.num_train_timesteps:
            raise ValueError(
                f"sampler.steps_offset must keep timesteps below {self.num_train_timesteps}, "
                f"got {self.steps_offset} (largest timestep {last})"
            )
        if listed.min() < 0 or len(listed) != self.steps:  # diffusers rounds one step too many
            raise ValueError(
                f"sampler.steps={self.steps} has no {self.timestep_spacing} list in the library "
                f"for {self.num_train_timesteps} timesteps (it ends at {listed.min()}): choose "
                "another number of steps, or a sampler.spacing"
            )

    def _plain_types(self) -> None:
        """Python's own numbers, so that equal settings are written and hashed alike."""
        if self.timesteps is not None:
            self.timesteps = [whole("timesteps", t) for t in self.timesteps]
        self.steps, self.order = whole("steps", self.steps), whole("order", self.order)
        self.power = number("power", self.power)
        if not isinstance(self.stochastic, bool | np.bool_):
            raise ValueError(f"sampler.stochastic must be true or false, got {self.stochastic!r}")
        self.stochastic = bool(self.stochastic)

    def _check_timesteps(self, chosen: list[int]) -> None:
        most = self.num_train_timesteps - 1
        if (
            not chosen
            or not 0 <= chosen[-1] <= chosen[0] <= most
            or any(b >= a for a, b in itertools.pairwise(chosen))
        ):
            raise ValueError(
                f"sampler.timesteps must be whole numbers from {most} to 0, each smaller than the "
                f"one before, got {list(chosen)}"
            )
        if self.spacing is not None:
            raise ValueError(
                f"sampler.timesteps excludes sampler.spacing, got both (spacing {self.spacing!r})"
            )
        if self.steps not in (len(chosen), DEFAULTS["steps"]):
            raise ValueError(
                f"sampler.steps must be {len(chosen)}, the length of sampler.timesteps, "
                f"got {self.steps}"
            )
        self.timesteps, self.steps = list(chosen), len(chosen)

    def _check_ranges(self) -> None:
        if self.clip_sample and not self.clip_sample_range > 0:
            raise ValueError(
                f"sampler.clip_sample_range must be above 0, got {self.clip_sample_range}"
            )
        for name in ("beta_start", "beta_end"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"sampler.{name} must be at least 0 and below 1, got {getattr(self, name)}"
                )
        betas = self.trained_betas
        wrong = [beta for beta in (() if betas is None else betas) if not 0 <= beta < 1]
        if wrong:
            raise ValueError(
                f"sampler.trained_betas must be at least 0 and below 1, got {wrong[0]}"
            )

    def _check_kind(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"sampler.eta must be from 0 to 1, got {self.eta}")
        if self.sigma_min:
            raise ValueError(
                f"sampler.sigma_min exists for {', '.join(CALLS)} only, got {self.sigma_min} with "
                f"{self.kind}"
            )
        for name, kind in OF_KIND.items():
            if self.kind != kind and getattr(self, name) != DEFAULTS[name]:
                raise ValueError(
                    f"sampler.{name} exists for {kind} only, got {getattr(self, name)} with "
                    f"{self.kind}"
                )
        if self.kind == "ddim" and self.beta_schedule == "sigmoid":
            raise ValueError("sampler.beta_schedule=sigmoid exists for ddpm only, got kind=ddim")
        if self.kind == "dpmpp" and self.rescale_betas_zero_snr:
            raise ValueError(
                "sampler=dpmpp needs rescale_betas_zero_snr=false: with it the log-SNR of the "
                "first timestep is minus infinity"
            )
        if self.kind == "dpmpp" and self.order > self.steps:
            raise ValueError(
                f"sampler.order must be at most sampler.steps = {self.steps}, got {self.order}"
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "sampler.rescale_betas_zero_snr needs prediction_type sample or v_prediction, "
                "got epsilon (the first step would divide by zero)"
            )

    @property
    def is_chosen(self) -> bool:
        """Whether the list is ours, not the library's."""
        return self.spacing is not None or self.timesteps is not None or self.kind == "dpmpp"

    @property
    def is_flow(self) -> bool:
        """Whether it follows a velocity, see flow.py."""
        return self.kind in CALLS

    @property
    def clip(self) -> float | None:
        """Where predicted clean trajectories are cut, None: nowhere."""
        return float(self.clip_sample_range) if self.clip_sample and not self.is_flow else None

    def settings(self) -> dict[str, Any]:
        """By name; newer settings only where they differ from their default, see `NEW`."""
        values = asdict(self)
        if self.is_flow:
            values = {k: values[k] for k in SETTINGS}
        return {k: v for k, v in values.items() if k not in NEW or v != DEFAULTS[k]}

    def with_steps(self, kind: str | None = None, steps: int | None = None) -> SamplerConfig:
        """The same diffusion process under another of the library's samplers or lists."""
        kind = kind or self.kind
        neutral = {n: DEFAULTS[n] for n, of in OF_KIND.items() if of != kind}
        keep = steps is None or steps == self.steps
        listed: dict[str, Any] = {} if keep else {"spacing": None, "timesteps": None}
        return replace(self, kind=kind, steps=steps or self.steps, **neutral, **listed)


DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(SamplerConfig)}
