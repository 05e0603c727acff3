"""Policy families: the name in a network's sizes -> its record. A new one needs one line."""

from __future__ import annotations

from typing import Any

from .dit.family import DIT
from .family import Family, Reader, UnsupportedPolicy
from .transformer.family import TRANSFORMER
from .unet.family import UNET

FAMILIES: dict[str, Family] = {family.name: family for family in (TRANSFORMER, UNET, DIT)}

NEEDED = {  # a part of a class's name -> why it is not read
    "Robomimic": "it is robomimic's recurrent policy, which denoises nothing",
    "Ibc": "it searches for the action of least energy and denoises nothing",
    "BET": "it chooses among clusters of actions and denoises nothing",
    "Video": "its encoder sees several frames at once",
    "Timm": "its encoder is one of the timm library",
}


def readers() -> list[Reader]:
    return [reader for family in FAMILIES.values() for reader in family.readers]


def refused(name: object) -> UnsupportedPolicy:
    """What a class that nothing here reads would need."""
    names = [reader.name for reader in readers()]
    needed = [words for part, words in NEEDED.items() if part in str(name)]
    said = f"{name} is not supported{f' ({needed[0]})' if needed else ''}"
    return UnsupportedPolicy(f"{said}: {', '.join(names[:-1])} and {names[-1]} are")


def family_named(name: str) -> Family:
    """The record of a family.

    Raises:
        ValueError: an unknown one.
    """
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {name!r}")
    return FAMILIES[name]


def family_in(content: dict[str, Any]) -> Family:
    """That of a policy.yaml; older files name none, and have its mark."""
    if content.get("family") is not None:
        return family_named(content["family"])
    network = content.get("network") or {}
    if not isinstance(network, dict):
        raise ValueError("network must be a mapping")
    marked = [family for family in FAMILIES.values() if family.mark and family.mark in network]
    return marked[0] if marked else TRANSFORMER
