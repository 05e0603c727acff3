"""Quantisation methods: name -> (config dataclass, how to make a quantised copy of a model)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .config import DuQuantConfig, QuantConfig, RtnConfig, SmoothConfig
from .duquant import LayerReport, Quantized, plan, quantize
from .file import load_quantized, save_quantized
from .statistics import Statistics, collect


@dataclass
class NoQuantConfig:
    """Weights and activations as the checkpoint has them."""

    name: str = "none"


QUANTIZERS: dict[str, tuple[type, Callable[..., Quantized] | None]] = {
    "none": (NoQuantConfig, None),
    "rtn": (RtnConfig, quantize),
    "smooth": (SmoothConfig, quantize),
    "duquant": (DuQuantConfig, quantize),
}

# older names, for scripts that have them
Quantised = Quantized
load_quantised, save_quantised = load_quantized, save_quantized

__all__ = [
    "QUANTIZERS",
    "DuQuantConfig",
    "LayerReport",
    "NoQuantConfig",
    "QuantConfig",
    "Quantised",
    "Quantized",
    "RtnConfig",
    "SmoothConfig",
    "Statistics",
    "collect",
    "load_quantised",
    "load_quantized",
    "plan",
    "quantize",
    "save_quantised",
    "save_quantized",
]
