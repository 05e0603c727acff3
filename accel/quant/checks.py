"""What the tensors of a quantised layer must be, of a file that anybody may have written."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .codes import unpack4
from .config import OFF
from .linear import QuantisedLinear
from .spec import LinearSpec
from .transform import is_permutation, orthogonality_error, padded

ROTATIONS = ("none", "hadamard", "stored")
ORTHOGONAL = 1e-3  # how far a stored rotation in float32 may be from orthogonal


def spec_of(name: str, said: Any, tensors: Mapping[str, Tensor]) -> LinearSpec:
    """A layer's settings, of the types that they have, and of the sizes that its codes have.

    Raises:
        ValueError: one line; nothing of the size that is claimed has been made.
    """
    said = {"rows_kind": LinearSpec.rows_kind, **said}  # earlier files have none
    for field, kind in typing.get_type_hints(LinearSpec).items():
        value = said[field]
        right = type(value) is kind or (kind is float and type(value) is int)
        if not right:
            raise ValueError(f"{name}: {field} must be of type {kind.__name__}, got {value!r}")
    spec = LinearSpec(**said)
    sizes = ("in_features", "out_features", "block", "rows")
    for field in sizes:
        if getattr(spec, field) < 1:
            raise ValueError(f"{name}: {field} must be at least 1, got {getattr(spec, field)}")
    if not 2 <= spec.weight_bits <= OFF or not 2 <= spec.activation_bits <= OFF:
        raise ValueError(f"{name}: bits must be from 2 to {OFF}")
    kinds = spec.first, spec.second, spec.rows_kind
    if any(kind not in ROTATIONS for kind in kinds) or spec.rows_kind == "none":
        raise ValueError(f"{name}: rotations must be one of {', '.join(ROTATIONS)}")
    if spec.out_features % spec.rows or spec.rows & (spec.rows - 1):
        raise ValueError(f"{name}: rows must be a power of two that divides {spec.out_features}")
    width = padded(spec.in_features, spec.block)
    wanted = (spec.out_features, width if spec.weight_bits > 4 else width // 2)
    if (there := tuple(tensors[f"{name}.codes"].shape)) != wanted:
        raise ValueError(f"{name}: codes must have the shape {wanted}, got {there}")
    if spec.block > width or spec.block & (spec.block - 1):
        raise ValueError(f"{name}: block must be a power of two up to {width}, got {spec.block}")
    return spec


def check_layer(name: str, layer: QuantisedLinear, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other shapes and types than the layer's, and values that none has.

    Raises:
        ValueError: one line with the layer and the tensor.
    """
    for key, buffer in layer.state_dict().items():
        if isinstance(buffer, Tensor):
            found = tensors[f"{name}.{key}"]
            if (found.dtype, found.shape) != (buffer.dtype, buffer.shape):
                raise ValueError(
                    f"{name}.{key} must be {buffer.dtype} {tuple(buffer.shape)}, got "
                    f"{found.dtype} {tuple(found.shape)}"
                )
    _check_codes(name, layer.spec, tensors[f"{name}.codes"])
    _check_positive(f"{name}.scale", tensors[f"{name}.scale"])
    if layer.inverse_smooth is not None:
        _check_positive(f"{name}.inverse_smooth", tensors[f"{name}.inverse_smooth"])
    if layer.perm is not None and not is_permutation(tensors[f"{name}.perm"], layer.width):
        raise ValueError(f"{name}.perm must hold each number below {layer.width} once")
    stored = dict(first=layer.spec.first, second=layer.spec.second, rows=layer.spec.rows_kind)
    for key, kind in stored.items():
        if kind == "stored" and f"{name}.{key}" in tensors:
            error = orthogonality_error(tensors[f"{name}.{key}"])
            if not error < ORTHOGONAL:  # NaN is not
                raise ValueError(f"{name}.{key} must be rotations, it is off by {error:.2g}")


def _check_codes(name: str, spec: LinearSpec, codes: Tensor) -> None:
    if spec.weight_bits == OFF:
        return  # floats, which are checked with all others
    most = 2 ** (spec.weight_bits - 1) - 1
    values = codes if spec.weight_bits > 4 else unpack4(codes)
    largest = int(values.to(torch.int32).abs().amax()) if values.numel() else 0
    if largest > most:
        raise ValueError(
            f"{name}.codes of {spec.weight_bits} bits must be from -{most} to {most}, got {largest}"
        )


def _check_positive(name: str, values: Tensor) -> None:
    wrong = ~(values.isfinite() & (values > 0))
    if bool(wrong.any()):
        raise ValueError(f"{name} must be above 0, got {float(values[wrong][0])}")


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse NaN; infinity too, but in masks, which are named so.

    Raises:
        ValueError: one line with the tensor.
    """
    for name, values in tensors.items():
        if not values.is_floating_point():
            continue
        wrong = values.isnan() if name.endswith("mask") else ~values.isfinite()
        if bool(wrong.any()):
            raise ValueError(f"{name} holds NaN or infinite values")
