"""Ways to make a diffusion policy cheaper."""

from __future__ import annotations

from .api import AcceleratedPolicy, accelerated, resolve
from .branch_errors import BranchErrors, branch_errors
from .caches import CACHES, NoCacheConfig, UniformConfig
from .calibration import Calibration, calibrate
from .engines import ENGINES
from .flops import query_flops
from .plan import CachePlan, PlanError, Site, shared_plan, sites_of
from .quant import QUANTIZERS, NoQuantConfig

__all__ = [
    "CACHES",
    "ENGINES",
    "QUANTIZERS",
    "AcceleratedPolicy",
    "BranchErrors",
    "CachePlan",
    "Calibration",
    "NoCacheConfig",
    "NoQuantConfig",
    "PlanError",
    "Site",
    "UniformConfig",
    "accelerated",
    "branch_errors",
    "calibrate",
    "query_flops",
    "resolve",
    "shared_plan",
    "sites_of",
]
