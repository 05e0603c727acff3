"""Everything of a diffusion policy but its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from skipstep.observations import STATE, ObservationSpec

from .data.modes import check_modes
from .encoders.config import EncoderConfig
from .families import family_named
from .family import Sizes
from .sampling.table import SamplerConfig
from .typed import check_types

MOST = dict.fromkeys(("obs_dim", "action_dim", "n_action_steps"), 2**20)
NEW = ("encoder", "aliases", "normalization", "control_hz")
"""Settings that are written down only where there are such."""


@dataclass
class TaskInfo:
    """What the checkpoint says of the task it was trained on; None where it does not say."""

    name: str = ""
    abs_action: bool | None = None
    robot_noise_ratio: float | None = None

    def __post_init__(self) -> None:
        check_types(self, "task")
        if self.robot_noise_ratio is not None and self.robot_noise_ratio < 0:
            raise ValueError(
                f"task.robot_noise_ratio must be at least 0, got {self.robot_noise_ratio}"
            )


@dataclass
class PolicyConfig:
    """Everything but the weights.

    Attributes:
        obs_dim: numbers of one observation; with an encoder, of one that is encoded.
        encoder: of observations that are more than one array of numbers; None: they are `state`.
        aliases: names that the checkpoint's own library has for arrays -> ours.
        normalization: {field of the normaliser: name in `policies.data.modes.MODES`}; fields that
            are not in it have an affine map.
        control_hz: how many observations a second it was trained on; None: that is not known.
    """

    network: Sizes
    obs_dim: int
    action_dim: int
    n_action_steps: int
    pred_action_steps_only: bool = False
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    task: TaskInfo = field(default_factory=TaskInfo)
    encoder: EncoderConfig | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    normalization: dict[str, str] = field(default_factory=dict)
    control_hz: float | None = None

    def __post_init__(self) -> None:
        check_types(self, most=MOST)
        for name in ("obs_dim", "action_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._check_observations()
        net = self.network
        width = self.action_dim + (0 if net.obs_as_cond else self.obs_dim)
        if (net.input_dim, net.output_dim) != (width, width):
            raise ValueError(
                f"network.input_dim and output_dim must be {width} for obs_dim {self.obs_dim}, "
                f"action_dim {self.action_dim} and obs_as_cond {net.obs_as_cond}, "
                f"got {net.input_dim}, {net.output_dim}"
            )
        if net.obs_as_cond and net.cond_dim != self.obs_dim:
            raise ValueError(
                f"network.cond_dim must be obs_dim = {self.obs_dim}, got {net.cond_dim}"
            )
        first = self.first_action
        if not 1 <= self.n_action_steps <= net.horizon - first:
            raise ValueError(
                f"n_action_steps must be from 1 to {net.horizon - first} (horizon {net.horizon}, "
                f"n_obs_steps {net.n_obs_steps}), got {self.n_action_steps}"
            )
        if self.pred_action_steps_only and net.causal_attn:
            raise ValueError(
                "pred_action_steps_only=true with causal_attn=true is refused: the mask is made "
                "for the horizon, and the reference implementation fails on it too"
            )
        if self.pred_action_steps_only and not net.any_length:
            raise ValueError(
                "pred_action_steps_only=true needs observations as a condition (obs_as_cond=true; "
                "of a UNet: obs_as_global_cond=true)"
            )
        if self.length % net.length_multiple:
            name = "n_action_steps" if self.pred_action_steps_only else "horizon"
            raise ValueError(
                f"{name} must be a multiple of {net.length_multiple} for a {net}, or the way up "
                f"gives another length, got {self.length}"
            )
        self._check_statistics()

    def _check_statistics(self) -> None:
        if not isinstance(self.normalization, Mapping):
            raise ValueError(f"normalization must be a mapping, got {self.normalization!r}")
        check_modes(self.normalization)
        hz = self.control_hz
        if hz is not None and not (isinstance(hz, int | float) and 0 < hz < float("inf")):
            raise ValueError(f"control_hz must be a number above 0 or null, got {hz!r}")

    def _check_observations(self) -> None:
        names = [STATE] if self.encoder is None else list(self.encoder.arrays)
        must = f"aliases must be other names for {', '.join(names)}"
        if not isinstance(self.aliases, dict):
            raise ValueError(f"{must}, got {self.aliases!r}")
        for theirs, ours in self.aliases.items():
            if ours not in names or theirs in names or not isinstance(theirs, str):
                raise ValueError(f"{must}, got {theirs}: {ours}")
        if self.encoder is None:
            return
        if self.encoder.out_dim != self.obs_dim:
            raise ValueError(
                f"obs_dim must be the encoder's {self.encoder.out_dim} numbers of one step, "
                f"got {self.obs_dim}"
            )
        if not self.network.obs_as_cond:
            raise ValueError(
                "an encoder needs a network with observations as a condition (obs_as_cond=true; of "
                "a UNet: obs_as=global or local): what it encodes cannot be painted in"
            )

    def settings(self) -> dict[str, Any]:
        """By name, as they are written down and hashed; see `SamplerConfig.settings`.

        Families that files had before they named any are not named, nor is what is `NEW` where it
        is not there, so hashes of those stay.
        """
        family = family_named(self.network.family)
        named = {} if family.mark else {"family": family.name}
        found = {**named, **asdict(self), "sampler": self.sampler.settings()}
        return {k: v for k, v in found.items() if v or k not in NEW}

    @property
    def obs_spec(self) -> ObservationSpec:
        """The arrays of an observation."""
        arrays = {STATE: self.obs_dim} if self.encoder is None else self.encoder.arrays
        return ObservationSpec.of(arrays, self.control_hz)

    @property
    def length(self) -> int:
        """Steps of the trajectory that is denoised."""
        return self.n_action_steps if self.pred_action_steps_only else self.network.horizon

    @property
    def first_action(self) -> int:
        """Index in the trajectory of the first executed action."""
        return 0 if self.pred_action_steps_only else self.network.first_action
