"""What accel knows of a kind of policy network: its places to cache, its costs, what runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

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


@dataclass(frozen=True)
class Costs:
    """FLOPs of one row, 2 per multiply-add.

    Attributes:
        sites: policy -> (n_sites,) in one denoising call, each without the sites inside of it.
        rest: policy -> what no cache saves of one denoising call.
        fused: (policy, computed as in `query_flops`) -> of one query in the fused engine; None: it
            does not run there.
    """

    sites: Callable[[Accelerable], np.ndarray]
    rest: Callable[[Accelerable], int]
    fused: Callable[[Any, np.ndarray], int] | None = None


@dataclass(frozen=True)
class Family:
    """A kind of network.

    Attributes:
        called: in messages, with its article.
        sites: sizes -> what a cache can fill, in the order in which the network runs it.
        costs: None: FLOPs are not counted, and tables have a dash for them.
        engines: names in `ENGINES` that run it; the first one stands in for those that do not.
        programs: backends of the fused engine that it has.
        compiled: what is one program in the fused engine: a whole "query", or a "call" of the
            network.
        stack: what its sites are of. "layers": a run of layers, each with as many sites; "levels":
            each site is inside of the one before; "": anything else.
        calibratable: its sites are residual branches, which a calibration can compare; it then has
            `first`.
        first: policy -> the module that puts out the normalised input of the first branch, or that
            and more.
        time: policy -> (N, width), what the time of each step adds to that input besides; or None,
            it is in there.
        quantizable: the engines know its linear layers, or its convolutions over time, by names.
        tokens: what its sites put out is (B, tokens, width), the policy's live tokens first.
        caches: names in `CACHES` that run it, for messages.
    """

    called: str
    sites: Callable[[Any], tuple[Site, ...]] = lambda sizes: ()
    costs: Costs | None = None
    engines: tuple[str, ...] = ("reference",)
    programs: tuple[str, ...] = ("native", "torch")
    compiled: str = "query"
    stack: str = ""
    calibratable: bool = False
    first: Callable[[Any], nn.Module] | None = None
    time: Callable[[Any], Tensor | None] = lambda policy: None
    quantizable: bool = False
    tokens: bool = False
    caches: tuple[str, ...] = ("none",)

    @property
    def noun(self) -> str:
        """What it is called, without the article."""
        return self.called.partition(" ")[2]

    def lacks(self, what: str, needed: str) -> str:
        """One line for a setting that cannot run on it."""
        caches = ", ".join(self.caches)
        return f"{what} needs {needed}; the policy is {self.called} (caches that run it: {caches})"
