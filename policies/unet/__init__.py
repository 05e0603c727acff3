"""The one-dimensional UNet of a diffusion policy."""

from __future__ import annotations

from .config import UnetConfig
from .network import Unet

__all__ = [
    "Unet",
    "UnetConfig",
]
