"""Smoothing, rotation, permutation, rotation: what makes a layer's inputs easy to quantise.

For any positive smoothing, orthogonal rotations and permutation, T(x) T'(W)^T = x W^T, where T
divides by the smoothing and T' multiplies by it. Fitted in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-5  # least maximum that smoothing divides by


@dataclass(frozen=True, eq=False)
class Transform:
    """x (T, K) -> ((x / smooth) first)[perm] second, its channels padded with zeros to `width`.

    Attributes:
        width: channels after padding, a multiple of the block.
        smooth: (K,) float64, or None.
        first, second: float64 rotations, (B, B) for all blocks or (width / B, B, B), or None.
        perm: (width,) int64, or None.
        back: (N / B, B, B) float64 rotations of the outputs: weights are multiplied by them block
            of rows by block, and outputs by their inverses; None: see `LinearSpec.rows`.
    """

    width: int
    smooth: Tensor | None = None
    first: Tensor | None = None
    perm: Tensor | None = None
    second: Tensor | None = None
    back: Tensor | None = None

    def activations(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, width)."""
        return self._mix(x if self.smooth is None else x / self.smooth)

    def weight(self, w: Tensor) -> Tensor:
        """(N, K) -> (N, width)."""
        return self._mix(w if self.smooth is None else w * self.smooth)

    def _mix(self, x: Tensor) -> Tensor:
        return mix(x, self.width, self.first, self.perm, self.second)


def mix(
    x: Tensor, width: int, first: Tensor | None, perm: Tensor | None, second: Tensor | None
) -> Tensor:
    """(T, K) -> (T, width): the orthogonal part, which inputs and weights share."""
    if x.shape[1] < width:
        x = torch.nn.functional.pad(x, (0, width - x.shape[1]))
    if first is not None:
        x = rotate(x, first)
    if perm is not None:
        x = x.index_select(1, perm)
    return x if second is None else rotate(x, second)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """(T, K) times a block-diagonal matrix, given as (B, B) for all blocks or (K / B, B, B)."""
    size = rotation.shape[-1]
    if rotation.dim() == 2:
        return (x.reshape(-1, size) @ rotation).view(x.shape)
    return torch.einsum("tbi,bij->tbj", x.reshape(len(x), -1, size), rotation).reshape(x.shape)


def is_permutation(perm: Tensor, n: int) -> bool:
    """Whether it holds each number below n once."""
    return torch.equal(perm.long().sort().values, torch.arange(n, device=perm.device))


def orthogonality_error(rotation: Tensor) -> float:
    """Largest entry of |R R^T - I| of (..., B, B) in float64; NaN where one is."""
    r = rotation.double()
    eye = torch.eye(r.shape[-1], dtype=torch.float64, device=r.device)
    return float((r @ r.mT - eye).abs().amax())


def padded(features: int, block: int) -> int:
    """The next multiple of the block."""
    return -(-features // block) * block


def power_of_two(n: int, most: int) -> int:
    """The largest one that divides n and is at most `most`, itself one."""
    return min(n & -n, most)


def smoothing(maximum: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """(K,): SmoothQuant's scales (Xiao et al. 2023, eq. 4), inputs to be divided by them."""
    inputs = maximum.double().clamp(min=EPSILON)
    weights = weight.double().abs().amax(0).clamp(min=EPSILON)
    return inputs**alpha / weights ** (1 - alpha)


def hadamard(size: int) -> Tensor:
    """(size, size) float64, symmetric and orthogonal; size is a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    spread: Tensor = matrix / size**0.5
    return spread


def greedy(x: Tensor, block: int, steps: int, generator: torch.Generator) -> Tensor:
    """(T, K) -> (K / block, block, block): the rotation with the smallest peak a search finds.

    Each step spreads the channel with the largest value evenly over its block and mixes the other
    channels at random (DuQuant, eq. 3-5); the best prefix of the steps is kept. Differences from
    the release: every block has its own rotation, the peak is the largest magnitude, the outlier is
    found by channel (there by row), and the empty prefix counts, so no block gets worse.
    """
    blocks = x.double().view(len(x), -1, block)
    n = blocks.shape[1]
    spread, every = hadamard(block), torch.arange(n)
    identity = torch.eye(block, dtype=torch.float64)
    rotation = identity.repeat(n, 1, 1)
    best, least = rotation.clone(), blocks.abs().amax((0, 2))
    for _ in range(steps):
        channel = blocks.abs().amax(0).argmax(1)
        order = torch.arange(block).repeat(n, 1)
        order[every, channel], order[:, 0] = 0, channel
        swap = identity[order]
        noise = torch.randn(n, block - 1, block - 1, generator=generator, dtype=torch.float64)
        others = identity.repeat(n, 1, 1)
        others[:, 1:, 1:] = torch.linalg.qr(noise)[0]
        step = swap @ spread @ others @ swap
        rotation = rotation @ step
        blocks = torch.einsum("tbi,bij->tbj", blocks, step)
        peak = blocks.abs().amax((0, 2))
        better = peak < least
        best[better], least[better] = rotation[better], peak[better]
    return best


ROTATIONS: dict[str, Callable[[Tensor, int, int, torch.Generator], Tensor]] = {
    "hadamard": lambda x, block, steps, generator: hadamard(block),
    "greedy": greedy,
}


def zigzag(score: Tensor, block: int) -> Tensor:
    """(K,) -> (K,) int64: channels dealt to the blocks back and forth, the largest first.

    DuQuant, section 3.3: all blocks get nearly the same mean; inside a block scores descend.
    """
    order = torch.argsort(score, descending=True, stable=True).view(block, -1).clone()
    order[1::2] = order[1::2].flip(1)
    return order.T.reshape(-1)


def fit(
    rows: Tensor,
    maximum: Tensor,
    weight: Tensor,
    *,
    block: int,
    alpha: float | None,
    rotation: str | None,
    permute: bool,
    steps: int,
    generator: torch.Generator,
) -> Transform:
    """The transform of one layer.

    Args:
        rows: (R, K) inputs.
        maximum: (K,) largest magnitudes of all inputs; used as one more row.
        weight: (N, K).
        block: channels that are rotated together.
        alpha: of the smoothing, or None for none.
        rotation: a name in `ROTATIONS`, or None for neither rotation nor permutation.
        permute: permute and rotate again; with a single block, which has nobody to deal with, and
            without the permutation, there is one rotation (Hadamard's would undo itself).
        steps: of a greedy search.
        generator: of a greedy search.
    """
    width = padded(weight.shape[1], block)
    smooth = None if alpha is None else smoothing(maximum, weight, alpha)
    if rotation is None:
        return Transform(width, smooth)
    x = torch.cat([rows, maximum[None]]).double()
    x = mix(x if smooth is None else x / smooth, width, None, None, None)
    search = ROTATIONS[rotation]
    first = search(x, block, steps, generator)
    if not permute or width == block:
        return Transform(width, smooth, first)
    x = rotate(x, first)
    perm = zigzag(x.abs().amax(0), block)
    second = search(x[:, perm], block, steps, generator)
    return Transform(width, smooth, first, perm, second)


def crest(x: Tensor) -> float:
    """Mean over rows of max|x| / rms(x): 3 for Gaussian rows of 256, 16 for a lone outlier."""
    x = x.double()
    rms = x.square().mean(1).sqrt().clamp(min=1e-30)
    return float((x.abs().amax(1) / rms).mean())
