"""The settings of a quantisation, checked where they are made."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

OFF = 16
"""Bits that mean: not quantised."""
LAYERS = (
    r"(^|\.)(?!(down|up|mid)_)(\w*_)?(layers?|blocks?|resblocks|refiner|h)\.\d+\.(?!.*kv_proj$)"
)
"""The numbered blocks of a model, by default, but not the keys and values of a memory, made once a
query: layers, blocks, transformer_blocks, single_transformer_blocks, double_blocks, ...

Not the levels of a UNet (down_blocks, ...), but the transformer blocks within them. With it go the
convolutions of a policy: of its image encoder, and of its UNet over time, see convolution.py."""
EARLIER_LAYERS = r"(^|\.)(layers|blocks|transformer_blocks)\.\d+\.(?!.*kv_proj$)"
"""What the default was before. Configurations that have it mean the default where both choose the
same layers, as in every policy of this project."""
ALLOWED: dict[str, tuple[str, ...]] = {
    "method": ("auto", "rtn", "smooth", "duquant"),
    "rotation": ("hadamard", "greedy"),
    "row_rot": ("none", "restore"),
    "activation": ("symmetric", "asymmetric"),
}


@dataclass(frozen=True)
class QuantConfig:
    """What all methods have.

    Attributes:
        weight_bits: 2 to 8, or 16 for none; up to 4 are stored two to a byte.
        activation_bits: 4 to 8, one scale per token, found as it comes; or 16 for none.
        clip: search each row's weight scale for the least squared error; else its maximum.
        activation_clip: share of a token's maximum that its codes reach, above 0 to 1.
        activation: symmetric, or asymmetric codes (these are simulated in floating point).
        include: regular expressions searched in layer names; a layer needs one of them.
        exclude: and none of these.
        layer_bits: {regular expression: weight bits} or None; the last that matches a layer counts.
        min_features: layers with fewer inputs or outputs stay as they are.
    """

    name: str = ""
    weight_bits: int = 8
    activation_bits: int = 8
    clip: bool = True
    activation_clip: float = 1.0
    activation: str = "symmetric"
    include: tuple[str, ...] = (LAYERS,)
    exclude: tuple[str, ...] = ()
    layer_bits: dict[str, int] | None = None
    min_features: int = 64

    def __post_init__(self) -> None:
        for setting, allowed in ALLOWED.items():
            if getattr(self, setting, allowed[0]) not in allowed:
                self._refuse(setting, f"one of {', '.join(allowed)}")
        for setting in ("include", "exclude"):
            if isinstance(getattr(self, setting), str):
                self._refuse(setting, "a list of regular expressions")
            object.__setattr__(self, setting, tuple(getattr(self, setting)))
        layer_bits = dict(self.layer_bits or {})
        object.__setattr__(self, "layer_bits", layer_bits)
        for setting in ("include", "exclude", "layer_bits"):
            for pattern in getattr(self, setting):
                try:
                    re.compile(pattern)
                except (re.error, TypeError):
                    self._refuse(setting, "regular expressions")
        if not self.include:
            self._refuse("include", "at least one regular expression")
        weights = (*range(2, 9), OFF)
        if not all(_is_int(b) and b in weights for b in layer_bits.values()):
            self._refuse("layer_bits", "{pattern: 2 to 8, or 16 for none}")
        if not _is_int(self.weight_bits) or self.weight_bits not in weights:
            self._refuse("weight_bits", "2 to 8, or 16 for none")
        if not _is_int(self.activation_bits) or self.activation_bits not in (*range(4, 9), OFF):
            self._refuse("activation_bits", "4 to 8, or 16 for none")
        if not 0 < self.activation_clip <= 1:
            self._refuse("activation_clip", "above 0 and at most 1")
        self._at_least("min_features", 1)

    def full(self) -> DuQuantConfig:
        """The same as settings of DuQuant, of which the other methods are parts."""
        return DuQuantConfig(**asdict(self), method=self.name)

    def _at_least(self, setting: str, least: int) -> None:
        value = getattr(self, setting)
        if not _is_int(value) or value < least:
            self._refuse(setting, f"a whole number of at least {least}")

    def _refuse(self, setting: str, allowed: str) -> None:
        raise ValueError(f"quant.{setting} must be {allowed}, got {getattr(self, setting)!r}")


@dataclass(frozen=True)
class RtnConfig(QuantConfig):
    """Rounding to the nearest code, inputs and weights as they are."""

    name: str = "rtn"


@dataclass(frozen=True)
class SmoothConfig(QuantConfig):
    """SmoothQuant (Xiao et al. 2023, arXiv 2211.10438): inputs scaled, weights scaled back.

    Attributes:
        alpha: share of an input's outliers that goes to the weights, 0 to 1.
    """

    name: str = "smooth"
    alpha: float | None = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is None or not 0 <= self.alpha <= 1:
            self._refuse("alpha", "from 0 to 1")


@dataclass(frozen=True)
class DuQuantConfig(QuantConfig):
    """DuQuant (Lin et al. 2024, arXiv 2406.01721), its two ablations, or the best of the three.

    Attributes:
        method: rtn (rounding alone), smooth (SmoothQuant's scaling), duquant (scaling, rotation,
            permutation, rotation), or auto: per layer the one with the least calibration error.
        block: channels that are rotated together; a power of two from 2 to 512.
        rotation: hadamard (a fixed matrix), or greedy (the paper's search).
        permute: deal the channels to the blocks in zigzag order, then rotate a second time.
        row_rot: restore rotates the outputs' blocks before quantising and back after the product.
        alpha: exponent of the smoothing, 0 to 1; None leaves it out.
        greedy_steps: steps of the greedy search.
        seed: of the greedy search.
    """

    name: str = "duquant"
    method: str = "auto"
    block: int = 16
    rotation: str = "hadamard"
    permute: bool = True
    row_rot: str = "none"
    alpha: float | None = 0.5
    greedy_steps: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_int(self.block) or self.block not in [2**k for k in range(1, 10)]:
            self._refuse("block", "a power of two from 2 to 512")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            self._refuse("alpha", "null or from 0 to 1")
        self._at_least("greedy_steps", 1)
        self._at_least("seed", 0)

    def full(self) -> DuQuantConfig:
        return self


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
