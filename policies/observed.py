"""An observation as it comes: its arrays by our names, in their shapes, pixels in their range."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skipstep.observations import STATE, ObservationSpec, is_image

Observation = Tensor | Mapping[str, Tensor]
MAX_PIXEL = 255
ROUNDING = 1e-6  # of pixels that were resized


def observed(
    obs: Observation, spec: ObservationSpec, aliases: Mapping[str, str], n_obs_steps: int
) -> dict[str, Tensor]:
    """The arrays of `spec`, in its order.

    Args:
        obs: (B, n_obs_steps, ...) by our names or by their aliases; a single array where the spec
            has one.
        spec: what is expected.
        aliases: other names -> ours.
        n_obs_steps: of each array.

    Raises:
        ValueError: arrays that are missing, not asked for, of another shape, or pixels that are
            neither uint8 nor floats in [0, 1]; says which. TypeError: what is not a tensor.
    """
    if not isinstance(obs, Mapping):
        if not spec.single:
            raise ValueError(f"obs must be a mapping with {', '.join(spec)}, got a single array")
        names, arrays = {STATE: "obs"}, {STATE: obs}
    else:
        names = spec.named(obs, lambda theirs: aliases.get(theirs, theirs))
        arrays = {ours: obs[theirs] for ours, theirs in names.items()}
    rows = None
    for ours, array in arrays.items():
        _check(names[ours], array, (n_obs_steps, *spec[ours].shape), is_image(ours))
        rows = len(array) if rows is None else rows
        if len(array) != rows:
            raise ValueError(
                f"obs must have as many rows in each array, got {rows} in "
                f"{names[next(iter(arrays))]} and {len(array)} in {names[ours]}"
            )
    return arrays


def _check(name: str, array: Tensor, shape: tuple[int, ...], image: bool) -> None:
    if not isinstance(array, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(array).__name__}")
    got = tuple(array.shape)
    if got[1:] != shape:
        steps, *sizes = shape
        last = image and got[1:] == (steps, *sizes[1:], sizes[0])
        raise ValueError(
            f"{name} must have shape (B, {', '.join(map(str, shape))}), got {got}"
            f"{': channels come first' if last else ''}"
        )
    if image:
        _check_pixels(name, array)


def _check_pixels(name: str, array: Tensor) -> None:
    if array.dtype == torch.uint8:
        return
    if not array.is_floating_point():
        raise ValueError(f"{name} must be uint8, or floats in [0, 1], got {array.dtype}")
    if array.numel():
        low, high = (float(end) for end in array.aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ValueError(
                f"{name} must be uint8, or floats in [0, 1], got floats from {low:g} to {high:g}"
            )


def in_units(name: str, array: Tensor, device: torch.device) -> Tensor:
    """An array by our name, float32 on a device; uint8 pixels become numbers in [0, 1]."""
    pixels = is_image(name) and array.dtype == torch.uint8
    array = array.to(device).to(torch.float32)
    array = array.contiguous() if is_image(name) else array  # or kernels for other layouts run
    return array / MAX_PIXEL if pixels else array
