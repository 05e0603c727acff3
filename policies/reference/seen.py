"""What a policy of the reference implementation that sees images is shown: its `shape_meta`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skipstep.observations import IMAGE, STATE

from ..encoders.config import EncoderConfig
from ..family import UnsupportedPolicy

OBS = "policy.shape_meta.obs"
RGB, NUMBERS = "rgb", "low_dim"
OF_ARRAY = ("shape", "type")
LARGEST = 2**16  # no array is longer, no image has a longer side


@dataclass(frozen=True)
class Seen:
    """What a policy sees, and how.

    Attributes:
        encoder: with our names, in the order in which the reference joins its arrays.
        names: shape_meta's -> ours, of all arrays in that order.
        action_dim: numbers of an action.
        imagenet: whether images are normalised once more, by ImageNet's statistics.
        note: what is different here; "": nothing.
    """

    encoder: EncoderConfig
    names: dict[str, str]
    action_dim: int
    imagenet: bool = False
    note: str = ""

    @property
    def aliases(self) -> dict[str, str]:
        return {theirs: ours for theirs, ours in self.names.items() if theirs != ours}


def shapes_in(meta: Any) -> tuple[dict[str, list[int]], int]:
    """shape_meta -> the shape of each array, numbers of an action."""
    obs, action = (meta.get(k) if isinstance(meta, Mapping) else None for k in ("obs", "action"))
    if not isinstance(obs, Mapping) or not isinstance(action, Mapping):
        raise UnsupportedPolicy("policy.shape_meta must say the shapes of obs and of action")
    found = {}
    for name, array in obs.items():
        where = f"{OBS}.{name}"
        if not isinstance(array, Mapping) or "shape" not in array:
            raise UnsupportedPolicy(f"{where} has no shape")
        if unknown := sorted(set(map(str, array)) - set(OF_ARRAY)):
            raise UnsupportedPolicy(f"{where}.{unknown[0]} is not known to this project")
        kind = array.get("type", NUMBERS)
        if kind not in (RGB, NUMBERS):
            raise UnsupportedPolicy(f"{where}.type must be {RGB} or {NUMBERS}, got {kind!r}")
        if not isinstance(name, str) or not name or "." in name:
            raise UnsupportedPolicy(f"{OBS} holds {name!r}, which is not a name of an array")
        found[name] = _sizes(where, array["shape"], "[C, H, W]" if kind == RGB else "[D]")
    return found, _sizes("policy.shape_meta.action", action.get("shape"), "[D]")[0]


def _sizes(where: str, shape: Any, form: str) -> list[int]:
    whole = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    if not whole or len(shape) != form.count(",") + 1 or max(shape) > LARGEST:
        raise UnsupportedPolicy(
            f"{where}.shape must be {form}, numbers from 1 to {LARGEST}, got {shape!r}"
        )
    return list(shape)


def names_of(shapes: Mapping[str, list[int]]) -> dict[str, str]:
    """Images are `image.<name>`; a single array of numbers is `state`, several keep their names."""
    numbers = [name for name, shape in shapes.items() if len(shape) == 1]
    state = {numbers[0]: STATE} if len(numbers) == 1 else {}
    return {
        name: IMAGE + name if len(shape) == 3 else state.get(name, name)
        for name, shape in shapes.items()
    }
