"""Quantisation methods: name -> (config dataclass, how to make a quantised copy of a model)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .config import DuQuantConfig, QuantConfig, RtnConfig, SmoothConfig
from .duquant import Quantized, plan, quantize
from .execution import execute
from .file import load_quantized, save_quantized
from .packs import make_packs, write_packs
from .report import LayerReport, LeftOut
from .statistics import Statistics, collect


@dataclass
class NoQuantConfig:
    """Weights and activations as the checkpoint has them."""

    name: str = "none"


# engines choose for themselves what computes the layers of a policy
_of_policy = partial(quantize, backend="torch")

QUANTIZERS: dict[str, tuple[type, Callable[..., Quantized] | None]] = {
    "none": (NoQuantConfig, None),
    "rtn": (RtnConfig, _of_policy),
    "smooth": (SmoothConfig, _of_policy),
    "duquant": (DuQuantConfig, _of_policy),
}

# older names, for scripts that have them
Quantised = Quantized
load_quantised, save_quantised = load_quantized, save_quantized

__all__ = [
    "QUANTIZERS",
    "DuQuantConfig",
    "LayerReport",
    "LeftOut",
    "NoQuantConfig",
    "QuantConfig",
    "Quantised",
    "Quantized",
    "RtnConfig",
    "SmoothConfig",
    "Statistics",
    "collect",
    "execute",
    "load_quantised",
    "load_quantized",
    "make_packs",
    "plan",
    "quantize",
    "save_quantised",
    "save_quantized",
    "write_packs",
]
