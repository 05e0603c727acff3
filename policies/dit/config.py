"""Sizes of a DiT policy's network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..family import MOST_SIZES, Sizes
from ..typed import check_types

LEAST_EMBEDDING = 4  # of time: it divides by half of it, less one


@dataclass
class DitConfig(Sizes):
    """Sizes of a `Dit`, whose tokens are the steps of the trajectory and attend to all others.

    cond_dim: numbers of one observation; those of all n_obs_steps are one vector with the embedded
        time, which scales, shifts and gates what every block does (adaLN-zero).
    timestep_embed_dim: width of the embedding of time.
    use_rope: queries and keys are turned by their place (rotary positions), by angles of rope_base.
    use_positional_encoding: a learnt vector is added to each token besides.
    p_drop_attn: dropout of the attention's weights.
    """

    family: ClassVar[str] = "dit"

    input_dim: int
    horizon: int
    n_obs_steps: int
    cond_dim: int
    n_layer: int = 6
    n_head: int = 8
    n_emb: int = 512
    timestep_embed_dim: int = 256
    use_rope: bool = True
    rope_base: float = 10000.0
    use_positional_encoding: bool = False
    p_drop_attn: float = 0.1

    def __post_init__(self) -> None:
        check_types(self, "network", MOST_SIZES)
        self._at_least_one("input_dim", "horizon", "n_obs_steps", "n_layer", "n_head", "n_emb")
        if self.cond_dim < 1:
            raise ValueError(
                "network.cond_dim must be at least 1: observations are a condition of a DiT "
                f"(obs_as_cond=true), got {self.cond_dim}"
            )
        turned = 2 if self.use_rope else 1
        if self.n_emb % (turned * self.n_head):
            raise ValueError(
                f"network.n_emb must be a multiple of {turned * self.n_head} (n_head = "
                f"{self.n_head}{', an even width each for use_rope' if self.use_rope else ''}), "
                f"got {self.n_emb}"
            )
        if self.timestep_embed_dim < LEAST_EMBEDDING or self.timestep_embed_dim % 2:
            raise ValueError(
                f"network.timestep_embed_dim must be even and at least {LEAST_EMBEDDING}, "
                f"got {self.timestep_embed_dim}"
            )
        if not 0 < self.rope_base < math.inf:
            raise ValueError(f"network.rope_base must be above 0 and finite, got {self.rope_base}")
        if not 0 <= self.p_drop_attn < 1:
            raise ValueError(
                f"network.p_drop_attn must be at least 0 and below 1, got {self.p_drop_attn}"
            )

    @property
    def output_dim(self) -> int:
        return self.input_dim

    @property
    def seen_dim(self) -> int:
        """Width of the vector that every block sees: time, and all observations."""
        return self.timestep_embed_dim + self.n_obs_steps * self.cond_dim

    @property
    def branches(self) -> tuple[str, ...]:
        return ("sa", "ff")

    @property
    def any_length(self) -> bool:
        return True

    @property
    def least_weights(self) -> int:
        """Attention, feed-forward and modulation of each block."""
        return self.n_layer * self.n_emb * (12 * self.n_emb + 6 * self.seen_dim)

    def __str__(self) -> str:
        return f"DiT of {self.n_layer} blocks of width {self.n_emb}"
