"""Checkpoints and live policies of the reference implementation, read as data."""

from __future__ import annotations

from .live import from_reference, policy_config

__all__ = [
    "from_reference",
    "policy_config",
]
