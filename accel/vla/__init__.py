"""Caches on the action expert of a live vision-language-action policy."""

from __future__ import annotations

from .accelerated import AcceleratedVla, accelerate_vla
from .calibrating import calibrate_vla
from .prefix import PrefixConfig
from .quantising import quantize_vla
from .structure import Vla, find_vla

__all__ = [
    "AcceleratedVla",
    "PrefixConfig",
    "Vla",
    "accelerate_vla",
    "calibrate_vla",
    "find_vla",
    "quantize_vla",
]
