"""Ways to make a diffusion policy cheaper."""

from __future__ import annotations

from .api import AcceleratedPolicy, accelerated, resolve
from .attach import Attached, attach
from .branch_errors import BranchErrors, branch_errors
from .caches import (
    CACHES,
    BacConfig,
    DeepCacheConfig,
    FirstBlockConfig,
    HashAbConfig,
    IntervalConfig,
    NoCacheConfig,
    SavedPlanConfig,
    TaylorConfig,
    TeaCacheConfig,
    UniformConfig,
)
from .caches.interval import import_interval
from .caches.saved import adapt_plan
from .calibration import Calibration, calibrate
from .engines import ENGINES, FusedConfig, ReferenceConfig, settled
from .flops import query_flops
from .plan import CachePlan, PlanError
from .quant import QUANTIZERS, NoQuantConfig
from .row_plans import shared_plan
from .sites import Site, sites_of
from .summary import PlanSummary, summarise
from .thresholds import Threshold, freeze

__all__ = [
    "CACHES",
    "ENGINES",
    "QUANTIZERS",
    "AcceleratedPolicy",
    "Attached",
    "BacConfig",
    "BranchErrors",
    "CachePlan",
    "Calibration",
    "DeepCacheConfig",
    "FirstBlockConfig",
    "FusedConfig",
    "HashAbConfig",
    "IntervalConfig",
    "NoCacheConfig",
    "NoQuantConfig",
    "PlanError",
    "PlanSummary",
    "ReferenceConfig",
    "SavedPlanConfig",
    "Site",
    "TaylorConfig",
    "TeaCacheConfig",
    "Threshold",
    "UniformConfig",
    "accelerated",
    "adapt_plan",
    "attach",
    "branch_errors",
    "calibrate",
    "freeze",
    "import_interval",
    "query_flops",
    "resolve",
    "settled",
    "shared_plan",
    "sites_of",
    "summarise",
]
