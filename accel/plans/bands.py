"""Low and high bands of a branch along its tokens, which may be forecast with different orders.

The reference engine alone runs them: the shipped policies have some 11 tokens, and the low band of
fewer than 20 is their mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CUTOFF = 0.1  # of the highest frequency, as in the libraries


@dataclass(frozen=True, eq=False)
class Bands:
    """What hits add of the low band besides, so that its forecast is another one.

    Attributes:
        low: (N, n_sites, n_slots) float64: a hit adds P sum_j low[s, u, j] X_j as well, P the low
            pass; so `alpha` is the high band's forecast, and alpha + low the low band's.
        cutoff: frequencies up to this share of the highest one are low.
    """

    low: np.ndarray
    cutoff: float = CUTOFF


def low_bins(tokens: int, cutoff: float = CUTOFF) -> int:
    """Frequencies in the low band, the mean among them; 1 is the mean alone."""
    frequency = np.fft.rfftfreq(tokens)
    return int((frequency <= cutoff * frequency.max()).sum())


def low_pass(tokens: int, cutoff: float = CUTOFF) -> np.ndarray:
    """(tokens, tokens) float64, the projection on the low band: a Fourier transform cut off."""
    frequency = np.abs(np.fft.fftfreq(tokens))
    kept = frequency <= cutoff * frequency.max()
    spectrum = np.fft.fft(np.eye(tokens), axis=0) * kept[:, None]
    return np.asarray(np.fft.ifft(spectrum, axis=0).real)
