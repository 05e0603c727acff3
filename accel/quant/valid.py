"""Whether the tensors of a quantised layer from a file are ones that quantising can give."""

from __future__ import annotations

import torch
from torch import Tensor

from .codes import top
from .config import OFF
from .linear import QuantisedLinear

CLOSE = 1e-3  # of a rotation times its transpose to the identity


def check_tensors(name: str, layer: QuantisedLinear) -> None:
    """Refuse tensors that no quantisation writes.

    Raises:
        ValueError: a scale or a smoothing that is not finite and above zero, a code out of range, a
            permutation that is none, a rotation that is not orthogonal, a bias that is not finite;
            the message names layer and tensor.
    """
    bits = layer.spec.weight_bits
    positive = {"scale": layer.scale, "inverse_smooth": layer.inverse_smooth}
    wrong = {
        **{n: t is not None and not _positive(t) for n, t in positive.items()},
        "bias": layer.bias is not None and not bool(layer.bias.isfinite().all()),
        "codes": not _in_range(layer.weight_codes(), None if bits == OFF else top(bits)),
        "perm": layer.perm is not None and not _permutes(layer.perm),
        **{n: not _orthogonal(getattr(layer, n)) for n in ("first", "second", "rows")},
    }
    if tensor := next((n for n, holds in wrong.items() if holds), None):
        raise ValueError(f"layer {name}: {tensor} has values that no quantisation gives")


def _positive(t: Tensor) -> bool:
    return bool((t.isfinite() & (t > 0)).all())


def _in_range(codes: Tensor, most: int | None) -> bool:
    if most is None:
        return bool(codes.isfinite().all())
    return not codes.numel() or int(codes.to(torch.int16).abs().max()) <= most


def _permutes(perm: Tensor) -> bool:
    return torch.equal(perm.long().sort().values, torch.arange(len(perm), device=perm.device))


def _orthogonal(rotation: Tensor | None) -> bool:
    if rotation is None:
        return True
    identity = torch.eye(rotation.shape[-1], device=rotation.device)
    return bool(((rotation @ rotation.mT - identity).abs() < CLOSE).all())
