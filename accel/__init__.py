"""Ways to make a diffusion policy cheaper."""

from __future__ import annotations

from .api import AcceleratedPolicy, accelerated, resolve
from .caches import CACHES, NoCacheConfig, UniformConfig
from .engines import ENGINES, FusedConfig, ReferenceConfig, settled
from .flops import query_flops
from .plan import CachePlan, PlanError, Site, shared_plan, sites_of
from .quant import QUANTIZERS, NoQuantConfig

__all__ = [
    "CACHES",
    "ENGINES",
    "QUANTIZERS",
    "AcceleratedPolicy",
    "CachePlan",
    "FusedConfig",
    "NoCacheConfig",
    "NoQuantConfig",
    "PlanError",
    "ReferenceConfig",
    "Site",
    "UniformConfig",
    "accelerated",
    "query_flops",
    "resolve",
    "settled",
    "shared_plan",
    "sites_of",
]
