"""Quantisation methods: name -> (config dataclass, how to build it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class NoQuantConfig:
    """Weights and activations as the checkpoint has them."""

    name: str = "none"


QUANTIZERS: dict[str, tuple[type, Any]] = {"none": (NoQuantConfig, None)}

__all__ = ["QUANTIZERS", "NoQuantConfig"]
