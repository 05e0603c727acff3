"""A sampler is rows of numbers: its timesteps, and what each step makes of the output."""

from __future__ import annotations

from .choosing import choose_sampler, sampler_warnings
from .config import SamplerConfig
from .noise_schedule import alphas_cumprod
from .samplers import KINDS as SAMPLERS
from .table import SamplerTable, sampler_table, timesteps

__all__ = [
    "SAMPLERS",
    "SamplerConfig",
    "SamplerTable",
    "alphas_cumprod",
    "choose_sampler",
    "sampler_table",
    "sampler_warnings",
    "timesteps",
]
