"""The noise of a row, and one whose first draw is not pure noise: where a warm query begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Started:
    """A generator whose first draw begins a query near a guess; its further draws are plain.

    Attributes:
        generator: of all draws.
        guess: (T, D) where the trajectory probably ends, normalised.
        known: (T,) bool, the positions that have a guess; the others begin as pure noise.
        signal, sigma: how much of the guess and of noise the first draw has: sqrt(alpha-bar) and
            sqrt(1 - alpha-bar) of the sampler's step.
        weight: (T,) how much of each position is held to the guess all through the query, 0 to 1;
            None: nothing is, see `skipstep.holding`.
        first: (T, D), the noise of the first draw; None before it.
    """

    generator: torch.Generator
    guess: Tensor
    known: Tensor
    signal: float
    sigma: float
    weight: Tensor | None = None
    first: Tensor | None = None

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """(..., T, D) of one row."""
        noise = torch.randn(shape, generator=self.generator)
        if self.first is not None:
            return noise
        self.first = noise.reshape(noise.shape[-2:])
        mixed = self.signal * self.guess + self.sigma * noise
        return torch.where(self.known[:, None], mixed, noise)


RowNoise = torch.Generator | Started


def row_noise(noise: RowNoise, shape: tuple[int, ...]) -> Tensor:
    """(..., T, D) of one row's noise: standard normal, but for where a warm query begins.

    Example:
        >>> plain = row_noise(torch.Generator().manual_seed(0), (1, 4, 2))
        >>> guess, known = torch.ones(4, 2), torch.tensor([True, True, True, False])
        >>> warm = Started(torch.Generator().manual_seed(0), guess, known, 1.0, 0.0)
        >>> first = row_noise(warm, (1, 4, 2))
        >>> bool((first[0, :3] == 1).all()), bool((first[0, 3] == plain[0, 3]).all())
        (True, True)
    """
    return noise.draw(shape) if isinstance(noise, Started) else torch.randn(shape, generator=noise)
