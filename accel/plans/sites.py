"""The places of a network that a cache can fill: its residual branches, or the levels of a UNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..protocol import Accelerable


@dataclass(frozen=True)
class Site:
    """A place in the network whose value can be stored and used again.

    Attributes:
        name: of the layer and the branch, or of the level of a UNet.
        op: "sa", "ca" or "ff"; "deep" is everything below a level of a UNet. Deep sites are
            nested: each holds those after it, which are not reached where it is a hit.
        kind: what is stored; "branch" is an addend of the residual stream, "output" a feature that
            takes the place of the computed one.
    """

    name: str
    op: str
    kind: str = "branch"


def _branches(sizes: Any) -> tuple[Site, ...]:
    stack = "encoder" if sizes.encoder_only else "decoder"
    return tuple(
        Site(f"{stack}.layers.{layer}.{op}", op)
        for layer in range(sizes.n_layer)
        for op in sizes.branches
    )


def _levels(sizes: Any) -> tuple[Site, ...]:
    return tuple(
        Site(f"unet.deep.{level}", "deep", "output") for level in range(1, len(sizes.down_dims))
    )


SITES: dict[str, Callable[[Any], tuple[Site, ...]]] = {
    "transformer": _branches,
    "unet": _levels,
    "blocks": lambda sizes: tuple(sizes.sites),  # of a foreign model
}


def sites_of(policy: Accelerable) -> tuple[Site, ...]:
    """The sites of a policy in the order in which the network runs them."""
    return SITES[policy.sizes.family](policy.sizes)
