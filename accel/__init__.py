"""Ways to make a diffusion policy cheaper."""

from __future__ import annotations

from .api import AcceleratedPolicy, accelerated, resolve
from .branch_errors import BranchErrors, branch_errors
from .caches import (
    CACHES,
    BacConfig,
    HashAbConfig,
    NoCacheConfig,
    SavedPlanConfig,
    UniformConfig,
)
from .caches.saved import adapt_plan
from .calibration import Calibration, calibrate
from .engines import ENGINES, FusedConfig, ReferenceConfig, settled
from .flops import query_flops
from .plan import CachePlan, PlanError, Site, shared_plan, sites_of
from .quant import QUANTIZERS, NoQuantConfig
from .summary import PlanSummary, summarise

__all__ = [
    "CACHES",
    "ENGINES",
    "QUANTIZERS",
    "AcceleratedPolicy",
    "BacConfig",
    "BranchErrors",
    "CachePlan",
    "Calibration",
    "FusedConfig",
    "HashAbConfig",
    "NoCacheConfig",
    "NoQuantConfig",
    "PlanError",
    "PlanSummary",
    "ReferenceConfig",
    "SavedPlanConfig",
    "Site",
    "UniformConfig",
    "accelerated",
    "adapt_plan",
    "branch_errors",
    "calibrate",
    "query_flops",
    "resolve",
    "settled",
    "shared_plan",
    "sites_of",
    "summarise",
]
