"""What an acceleration needs from a policy; `policies.DiffusionPolicy` satisfies it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from skipstep.starts import RowNoise

Compute = Callable[[], Tensor]
StepBranch = Callable[[int, int, Compute], Tensor]
Observation = Tensor | Mapping[str, Tensor]
Memories = Sequence[dict[str, Any]] | None
Noise = torch.Generator | Sequence[RowNoise]


class NetworkSizes(Protocol):
    """Sizes of a transformer, from which sites are named and FLOPs are counted.

    family: "transformer".
    """

    @property
    def family(self) -> str: ...

    n_layer: int
    n_emb: int
    n_cond_layers: int
    n_obs_steps: int
    input_dim: int
    output_dim: int
    cond_dim: int

    @property
    def encoder_only(self) -> bool: ...

    @property
    def n_memory(self) -> int: ...

    @property
    def branches(self) -> tuple[str, ...]: ...


class Accelerable(Protocol):
    """A diffusion policy whose denoising network shows its sites.

    obs_spec: the arrays of an observation, see `skipstep.observations`.
    sizes: `family`, a name in `accel.FAMILIES`, and what that record asks of them.
    n_live: leading steps of the trajectory that can influence an executed action.
    sampler_settings: by name, plain values; alpha_bar: (N,) of the trajectory that each step sees.
    first_action: index in the trajectory of the first executed action; longest_chunk: how many
        follow it, itself included.
    with_sampler: the same weights under another sampler, a name or a config; from_step: under the
        rest of its own, from a step on; with_n_action_steps: with so many executed actions.
    check: refuses observations and noise that do not fit.
    encode: observations to what the network is told of them, once a query.
    denoise: what `encode` gave to actions.
    encode_flops: of `encode` for one row, where a policy has it; see `plans.flops`.
    fingerprint: of weights and settings; with `sampler`, as it would be with these settings.
    """

    n_obs_steps: int
    n_action_steps: int
    horizon: int
    obs_dim: int
    action_dim: int
    training: bool

    @property
    def obs_spec(self) -> Any: ...

    @property
    def n_inference_steps(self) -> int: ...

    @property
    def n_tokens(self) -> int: ...

    @property
    def n_live(self) -> int: ...

    @property
    def first_action(self) -> int: ...

    @property
    def longest_chunk(self) -> int: ...

    @property
    def sizes(self) -> Any: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def sampler_settings(self) -> dict[str, Any]: ...

    @property
    def normalizer(self) -> Any: ...

    @property
    def alpha_bar(self) -> np.ndarray: ...

    def fingerprint(self, sampler: Mapping[str, Any] | None = None) -> str: ...

    def with_sampler(self, sampler: Any, steps: int | None = None) -> Any: ...

    def with_n_action_steps(self, n: int) -> Any: ...

    def from_step(self, step: int) -> Any: ...

    def check(self, obs: Observation, noise: Noise) -> None: ...

    def encode(self, obs: Observation, memory: Memories = None) -> Tensor: ...

    def denoise(self, cond: Tensor, noise: Noise, branch: StepBranch | None = None) -> Tensor: ...


class Transparent(Accelerable, Protocol):
    """A transformer, and what the fused engine needs besides: its parts, by the reference's names.

    model: input_emb, pos_emb, time_emb, ln_f, head, mask, memory_mask; encoder or decoder with
        `layers` (self_attn, multihead_attn, norm1, norm2, norm3, linear1, linear2); cond_obs_emb,
        cond_pos_emb and memory(timestep, cond) unless encoder-only.
    table: the sampler's coefficients and timesteps, see `policies.SamplerTable`.
    normalizer: unnormalize(field, x).
    """

    model: Any
    table: Any
    normalizer: Any

    @property
    def sizes(self) -> NetworkSizes: ...

    @property
    def pred_action_steps_only(self) -> bool: ...
