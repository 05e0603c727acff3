"""Weights that were read, before they become a policy's: sizes, types, finite values, masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .config import PolicyConfig
from .data.normalizer import Normalizer
from .families import family_named
from .policy import DiffusionPolicy

COUNTS = "num_batches_tracked"
NARROW = (torch.float16, torch.bfloat16, torch.float32)  # loading makes the same float32 of them


def check_sizes(config: PolicyConfig, state: Mapping[str, Tensor]) -> None:
    """Refuse settings of a network that the weights are too few for, before it is built.

    Raises:
        ValueError: one line.
    """
    least, there = config.network.least_weights, sum(v.numel() for v in state.values())
    if least > there:
        raise ValueError(
            f"its settings ask for a {config.network} with at least {least} weights, the file has "
            f"{there}"
        )


def checked(policy: DiffusionPolicy, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are loaded: as precise as float32 at most, finite, of the policy's kinds.

    Masks must be those that the settings make: they hold infinity, and decide what is seen.

    Raises:
        ValueError: one line with the name.
    """
    own = policy.state_dict()
    masks = {f"model.{name}" for name in family_named(policy.config.network.family).masks}
    found = {}
    for name, values in state.items():
        made = own.get(name)
        counts = name.endswith(COUNTS)  # written as they come, and read by nothing
        if (
            made is not None
            and not counts
            and made.is_floating_point() != values.is_floating_point()
        ):
            raise ValueError(f"{name} must be of {made.dtype}, got {values.dtype}")
        plain = values.dtype in NARROW or not values.is_floating_point()
        found[name] = values if plain else values.float()
        if name in masks:
            if made is not None and not torch.equal(found[name].to(made.dtype), made):
                raise ValueError(f"{name} is not the mask that the settings of its network make")
        elif not _is_finite(found[name]):
            raise ValueError(f"{name} holds NaN or infinite values")
    return found


def _is_finite(values: Tensor) -> bool:
    """By the smallest and the largest, which are NaN where one of them is."""
    if not values.numel() or not values.is_floating_point():
        return True
    return all(bool(end.isfinite()) for end in values.aminmax())


def check_scales(normalizer: Normalizer) -> None:
    """Refuse a map without an inverse: normalised actions could not be turned back.

    Raises:
        ValueError: one line with the field and the number.
    """
    for name, values in normalizer.state_dict().items():
        field, _, last = name.removeprefix("params_dict.").rpartition(".")
        if last == "scale" and field not in normalizer.modes:
            zero = (values.abs() < torch.finfo(values.dtype).tiny).flatten().nonzero()
            if len(zero):
                raise ValueError(f"normalizer: the scale of {field} is 0 at {int(zero[0])}")
