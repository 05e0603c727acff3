"""What a policy does once a query: observations become what the network is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipstep.observations import STATE, ObservationSpec, is_image

from .config import PolicyConfig
from .data.normalizer import Normalizer
from .encoders.flops import encoder_flops
from .encoders.memory import remembered
from .observed import Observation, in_units, observed

Memories = Sequence[dict[str, Any]] | None


def observed_fields(config: PolicyConfig) -> dict[str, int | tuple[int, ...]]:
    """Maps of the normaliser for what is observed; an image has one number a channel."""
    if config.encoder is None:
        return {"obs": config.obs_dim}
    arrays = config.encoder.arrays
    return {name: (s[0], 1, 1) if is_image(name) else s[0] for name, s in arrays.items()}


class Encoding(nn.Module):
    """The part of a policy that encodes.

    Attributes:
        encoder: from normalised arrays (B, To, ...) by name to (B, To, obs_dim); None: the only
            array is normalised, and that is all.
    """

    config: PolicyConfig
    normalizer: Normalizer
    encoder: nn.Module | None
    obs_spec: ObservationSpec
    n_obs_steps: int

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def encode_flops(self) -> int:
        """FLOPs of `encode` for one row; 0 where nothing is learnt there."""
        config = self.config.encoder
        return 0 if config is None else self.n_obs_steps * encoder_flops(config)

    @property
    def n_encoder_parameters(self) -> int:
        return 0 if self.encoder is None else sum(p.numel() for p in self.encoder.parameters())

    def observed(self, obs: Observation) -> dict[str, Tensor]:
        """The arrays of an observation by our names, as they came; refuses what does not fit."""
        return observed(obs, self.obs_spec, self.config.aliases, self.n_obs_steps)

    @torch.no_grad()
    def encode(self, obs: Observation, memory: Memories = None) -> Tensor:
        """Observations to what the network is told of them, once a query.

        Args:
            obs: (B, n_obs_steps, obs_dim) float32, in the units of the env, or a mapping of the
                arrays of `obs_spec`, by our names or the checkpoint's own; images are uint8, or
                floats in [0, 1].
            memory: one dict a row, kept by whoever runs the episode and emptied at its reset;
                what stays the same from query to query is kept in it, see `encoders.memory`. None:
                nothing is kept, and the batch is encoded at once.

        Returns:
            (B, n_obs_steps, obs_dim), normalised.

        Raises:
            ValueError: arrays that do not fit `obs_spec`, by name.
        """
        if self.encoder is None:
            state = self.observed(obs)[STATE] if isinstance(obs, Mapping) else obs
            return self.normalizer.normalize("obs", state.to(self.device, torch.float32))
        arrays = self.observed(obs)
        if memory is None or not self.obs_spec.images:
            return self.encoded(arrays)
        return remembered(memory, arrays, self.encoded, self.encoder)

    def encoded(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """What `encode` does with an encoder, unchecked and with gradients.

        Args:
            arrays: (B, To, ...) as they came, by our names.

        Returns:
            (B, To, obs_dim)
        """
        assert self.encoder is not None
        device = self.device
        out: Tensor = self.encoder(
            {
                name: self.normalizer.normalize(name, in_units(name, array, device))
                for name, array in arrays.items()
            }
        )
        return out
