"""Values of a model's streams: copies, differences, shapes, and sums of stored ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Values = tuple[Tensor | None, ...]
Shapes = tuple[tuple[int, ...] | None, ...]
Weighted = tuple[Values, float, float]
"""What was stored, its coefficient, and that of its low band besides."""


def owned(values: Values) -> Values:
    """Copies, which blocks that work in place leave alone."""
    return tuple(None if value is None else value.clone() for value in values)


def shapes_of(values: Values) -> Shapes:
    """Shape of every stream; None for one that is not there."""
    return tuple(None if value is None else tuple(value.shape) for value in values)


def named(shapes: Shapes) -> str:
    """Shapes for a message."""
    return ", ".join("none" if shape is None else str(shape) for shape in shapes)


def less(values: Values, others: Values) -> Values:
    """Stream by stream; None where either is.

    Raises:
        RuntimeError: the shapes differ, so there is no difference.
    """
    found = []
    for value, other in zip(values, others, strict=True):
        if value is not None and other is not None and value.shape != other.shape:
            raise RuntimeError(
                f"a run of blocks changes a stream from {tuple(other.shape)} to "
                f"{tuple(value.shape)}: it has no delta; let it end where the shape changes"
            )
        found.append(None if value is None or other is None else value - other)
    return tuple(found)


def combined(start: Values | None, terms: Sequence[Weighted], cutoff: float = 0.0) -> Values:
    """Start + sum of coefficient * values, new tensors; a stream that was None stays None.

    The sum is written as (sum of coefficients) * newest + sum of coefficient * (value - newest), so
    equal values give that value whatever their coefficients are; half precision adds in float32.

    Args:
        start: None is zero.
        terms: newest first.
        cutoff: of the low bands, see `plans.bands.Bands`.
    """
    found: list[Tensor | None] = []
    for index, newest in enumerate(terms[0][0]):
        begun = None if start is None else start[index]
        if newest is None:
            found.append(None)
            continue
        if len(terms) == 1 and terms[0][1:] == (1.0, 0.0):
            found.append(newest.clone() if begun is None else begun + newest)
            continue
        stored = [(values[index], high, low) for values, high, low in terms]
        total = _sum([(value, high) for value, high, _ in stored])
        if any(low for _, _, low in stored):
            total = total + low_band(_sum([(value, low) for value, _, low in stored]), cutoff)
        found.append((total if begun is None else begun + total).to(newest.dtype))
    return tuple(found)


def _sum(terms: Sequence[tuple[Tensor | None, float]]) -> Tensor:
    newest = terms[0][0]
    assert newest is not None
    wide = torch.float32 if newest.dtype in (torch.float16, torch.bfloat16) else newest.dtype
    newest = newest.to(wide)
    total = newest * sum(coefficient for _, coefficient in terms)
    for value, coefficient in terms[1:]:
        assert value is not None
        total = torch.add(total, value.to(wide) - newest, alpha=coefficient)
    return total


def low_band(values: Tensor, cutoff: float) -> Tensor:
    """Frequencies along the tokens up to a share of the highest one, (B, tokens, width).

    Raises:
        RuntimeError: it has no tokens.
    """
    if values.ndim != 3:
        raise RuntimeError(
            f"cache.low_order and cache.high_order need streams of (batch, tokens, width), got "
            f"{tuple(values.shape)}: set cache.order"
        )
    tokens = values.shape[1]
    frequency = torch.fft.rfftfreq(tokens)
    kept = (frequency <= cutoff * frequency.max()).to(values.device)
    spectrum = torch.fft.rfft(values, dim=1) * kept[:, None]
    found: Tensor = torch.fft.irfft(spectrum, n=tokens, dim=1)
    return found


def by_row(rows: Tensor, values: Values, others: Values) -> Values:
    """Rows of `values` where `rows` (B,) is true, else of `others`; None where either is.

    Raises:
        RuntimeError: a stream has other rows.
    """
    found: list[Tensor | None] = []
    for value, other in zip(values, others, strict=True):
        if value is None or other is None:
            found.append(None)
            continue
        if len(value) != len(rows):
            raise RuntimeError(
                f"a stream has {len(value)} rows, the probe {len(rows)}: a cache that decides at "
                "run time needs the batch as the first dimension of every stream, or rows that "
                "decide alike; run one sample at a time, or list blocks of one layout"
            )
        found.append(torch.where(rows.view(-1, *[1] * (value.ndim - 1)), value, other))
    return tuple(found)
