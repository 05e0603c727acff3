"""Quantisation methods: name -> (config dataclass, how to make a quantised copy of a model)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .config import DuQuantConfig, QuantConfig, RtnConfig, SmoothConfig
from .duquant import LayerReport, Quantised, plan, quantize
from .file import load_quantised, save_quantised
from .statistics import Statistics, collect


@dataclass
class NoQuantConfig:
    """Weights and activations as the checkpoint has them."""

    name: str = "none"


QUANTIZERS: dict[str, tuple[type, Callable[..., Quantised] | None]] = {
    "none": (NoQuantConfig, None),
    "rtn": (RtnConfig, quantize),
    "smooth": (SmoothConfig, quantize),
    "duquant": (DuQuantConfig, quantize),
}

__all__ = [
    "QUANTIZERS",
    "DuQuantConfig",
    "LayerReport",
    "NoQuantConfig",
    "QuantConfig",
    "Quantised",
    "RtnConfig",
    "SmoothConfig",
    "Statistics",
    "collect",
    "load_quantised",
    "plan",
    "quantize",
    "save_quantised",
]
