"""Quantisation methods: name -> (config dataclass, how to build it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .config import DuQuantConfig
from .duquant import LayerReport, Quantised, plan, quantize
from .file import load_quantised, save_quantised
from .statistics import Statistics, collect


@dataclass
class NoQuantConfig:
    """Weights and activations as the checkpoint has them."""

    name: str = "none"


QUANTIZERS: dict[str, tuple[type, Any]] = {"none": (NoQuantConfig, None)}

__all__ = [
    "QUANTIZERS",
    "DuQuantConfig",
    "LayerReport",
    "NoQuantConfig",
    "Quantised",
    "Statistics",
    "collect",
    "load_quantised",
    "plan",
    "quantize",
    "save_quantised",
]
