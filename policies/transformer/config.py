"""Sizes of a transformer policy's network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..family import MOST_SIZES, Sizes
from ..typed import check_types

LEAST_WIDTH = 4  # the embedding of time divides by half of it, less one


@dataclass
class NetworkConfig(Sizes):
    """Sizes of a `DiffusionTransformer`, under the reference implementation's names."""

    family: ClassVar[str] = "transformer"

    input_dim: int
    output_dim: int
    horizon: int
    n_obs_steps: int
    cond_dim: int = 0
    n_layer: int = 8
    n_head: int = 4
    n_emb: int = 256
    p_drop_emb: float = 0.0
    p_drop_attn: float = 0.1
    causal_attn: bool = True
    time_as_cond: bool = True
    obs_as_cond: bool = True
    n_cond_layers: int = 0

    def __post_init__(self) -> None:
        check_types(self, "network", MOST_SIZES)
        self._at_least_one(
            *("input_dim", "output_dim", "horizon", "n_obs_steps", "n_layer", "n_head", "n_emb")
        )
        if self.n_emb % 2 or self.n_emb % self.n_head or self.n_emb < LEAST_WIDTH:
            raise ValueError(
                f"network.n_emb must be even, a multiple of n_head = {self.n_head} and at least "
                f"{LEAST_WIDTH}, got {self.n_emb}"
            )
        for name in ("p_drop_emb", "p_drop_attn", "n_cond_layers"):
            if getattr(self, name) < 0:
                raise ValueError(f"network.{name} must be at least 0, got {getattr(self, name)}")
        if self.obs_as_cond != (self.cond_dim > 0):
            raise ValueError(
                f"network.cond_dim must be positive exactly if obs_as_cond, got {self.cond_dim}"
            )
        if self.obs_as_cond and not self.time_as_cond:
            raise ValueError("network.time_as_cond must be true with obs_as_cond, got false")

    @property
    def least_weights(self) -> int:
        """Attention and feed-forward of each layer, what embeds, and the mask over tokens."""
        mask = self.horizon**2 if self.causal_attn else 0
        embedded = self.input_dim + self.output_dim + self.cond_dim + self.horizon
        return mask + self.n_emb * (12 * self.n_emb * self.n_layer + embedded)

    @property
    def encoder_only(self) -> bool:
        """Whether time is a token of the trajectory and nothing else is attended to."""
        return not self.time_as_cond

    @property
    def n_tokens(self) -> int:
        return self.horizon + (1 if self.encoder_only else 0)

    @property
    def n_memory(self) -> int:
        """Tokens the cross-attention sees: the time, and observations that are conditions."""
        return 0 if self.encoder_only else 1 + (self.n_obs_steps if self.obs_as_cond else 0)

    @property
    def branches(self) -> tuple[str, ...]:
        return ("sa", "ff") if self.encoder_only else ("sa", "ca", "ff")

    @property
    def any_length(self) -> bool:
        """Whether the trajectory may be the executed actions alone."""
        return self.obs_as_cond

    def __str__(self) -> str:
        return f"{self.n_layer} layers of width {self.n_emb}"
