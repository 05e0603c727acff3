"""Policy families: the name that a policy's sizes give -> what accel knows of its network."""

from __future__ import annotations

from typing import Any

from .blocks import BLOCKS
from .dit import DIT
from .record import Costs, Family, Site
from .transformer import TRANSFORMER
from .unet import UNET
from .vla import VLA

FAMILIES: dict[str, Family] = {
    "transformer": TRANSFORMER,
    "unet": UNET,
    "dit": DIT,
    "blocks": BLOCKS,
    "vla": VLA,
}

__all__ = ["FAMILIES", "Costs", "Family", "Site", "family_of"]


def family_of(policy: Any) -> Family:
    """The record of a policy's family.

    Raises:
        ValueError: its family has no record here.
    """
    name = policy.sizes.family
    if name not in FAMILIES:
        raise ValueError(
            f"policy.sizes.family must be one of accel.FAMILIES ({', '.join(FAMILIES)}), "
            f"got {name!r}"
        )
    return FAMILIES[name]
