"""Numbers to integer codes and back: weights per row, activations per token as they come."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
EXACT = 1024  # products of two 8-bit codes whose sum is below 2^24
TINY = 1e-30  # least scale; a row of zeros has codes of zero


def top(bits: int) -> int:
    """The largest code: the range is symmetric, so 127 for 8 bits and 7 for 4."""
    return int(2 ** (bits - 1)) - 1


def quantise_weight(w: Tensor, bits: int, clip: bool) -> tuple[Tensor, Tensor]:
    """(N, K) float64 -> codes (N, K) int8, scales (N,) float32: w is about codes * scales.

    With `clip`, each row's scale is the one of `CLIPS` times its maximum with the least squared
    error, else its maximum.
    """
    peak = w.abs().amax(1)
    best = torch.full_like(peak, float("inf"))
    codes = torch.zeros_like(w, dtype=torch.int8)
    scales = torch.ones_like(peak, dtype=torch.float32)
    for share in CLIPS if clip else CLIPS[:1]:
        scale = (share * peak / top(bits)).clamp(min=TINY).float()
        tried = (w / scale[:, None]).round().clamp(-top(bits), top(bits))
        error = (w - tried * scale[:, None]).square().sum(1)
        better = error < best
        best[better], scales[better] = error[better], scale[better]
        codes[better] = tried[better].to(torch.int8)
    return codes, scales


def pack4(codes: Tensor) -> Tensor:
    """(N, K) int8 in -8..7, K even -> (N, K / 2) uint8, the even channels in the low halves."""
    low, high = (codes & 15).view(torch.uint8)[:, ::2], (codes & 15).view(torch.uint8)[:, 1::2]
    return low | (high << 4)


def unpack4(packed: Tensor) -> Tensor:
    """The inverse of `pack4`."""
    halves = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1).to(torch.int8)
    return halves - ((halves & 8) << 1)


def token_codes(x: Tensor, bits: int, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    """(T, K) float32 -> codes (T, K) int8, scales (T, 1): symmetric, one scale per token."""
    scale = (x.abs().amax(1, keepdim=True) * (clip / top(bits))).clamp(min=TINY)
    return (x / scale).round().clamp(-top(bits), top(bits)).to(torch.int8), scale


def asymmetric(x: Tensor, bits: int, clip: float = 1.0) -> Tensor:
    """(T, K) -> the values that codes with a zero point per token stand for; simulated."""
    levels = 2**bits - 1
    low = x.amin(1, keepdim=True).clamp(max=0) * clip
    high = x.amax(1, keepdim=True).clamp(min=0) * clip
    scale = ((high - low) / levels).clamp(min=TINY)
    zero = (-low / scale).round()
    values: Tensor = (((x / scale).round() + zero).clamp(0, levels) - zero) * scale
    return values


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """(T, K) int8, (N, K) int8 -> (T, N) int32 on any machine.

    float32 holds every sum of 1024 products of 8-bit codes exactly, in whatever order.
    """
    total = torch.zeros(len(a), len(b), dtype=torch.int32, device=a.device)
    for first in range(0, a.shape[1], EXACT):
        part = slice(first, first + EXACT)
        total += (a[:, part].float() @ b[:, part].float().T).to(torch.int32)
    return total


def _int_mm(a: Tensor, b: Tensor) -> Tensor:
    rows = len(a)
    if a.is_cuda and rows <= 16:  # what cuBLAS takes
        a = torch.nn.functional.pad(a, (0, 0, 0, 32 - rows))
    return torch._int_mm(a, b.T)[:rows]


@cache
def int_mm_pays(device: str) -> bool:
    """Whether torch._int_mm is exact here and faster than `exact_product`.

    It is silently wrong on some machines, and without VNNI ten times slower than floats.
    """
    generator = torch.Generator().manual_seed(0)
    times = {_int_mm: 0.0, exact_product: 0.0}
    for rows in (1, 10, 16, 33, 33):
        a, b = (
            torch.randint(-127, 128, (n, 256), generator=generator).to(device, torch.int8)
            for n in (rows, 256)
        )
        a[0], b[0] = 127, -127  # where sums of two products saturate in 16 bits
        found = []
        for product in (_int_mm, exact_product):
            started = time.perf_counter()
            try:
                found.append(product(a, b).cpu())
            except RuntimeError:
                return False
            times[product] = time.perf_counter() - started  # the last one counts
        if not torch.equal(*found):
            return False
    return times[_int_mm] < times[exact_product]


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """(T, K) int8, (N, K) int8 -> (T, N) int32, by torch._int_mm where that is exact and fast."""
    aligned = not a.is_cuda or (a.shape[1] % 8 == 0 and len(b) % 8 == 0)
    if len(a) and aligned and int_mm_pays(a.device.type):
        return _int_mm(a, b)
    return exact_product(a, b)
