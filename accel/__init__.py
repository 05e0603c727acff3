"""Ways to make a diffusion policy cheaper."""

from __future__ import annotations

from .api import AcceleratedPolicy, accelerated, quantised, resolve
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
from .engines import (
    ENGINES,
    FusedConfig,
    ReferenceConfig,
    integers_of,
    kernel_times,
    kernels_of,
    settled,
)
from .flops import query_flops
from .plan import CachePlan, PlanError, Site, shared_plan, sites_of
from .quant import (
    QUANTIZERS,
    DuQuantConfig,
    NoQuantConfig,
    Quantised,
    RtnConfig,
    SmoothConfig,
    Statistics,
    collect,
    load_quantised,
    quantize,
    save_quantised,
)
from .quant.noise import LoudForecasts, loud_forecasts
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
    "DuQuantConfig",
    "FusedConfig",
    "HashAbConfig",
    "LoudForecasts",
    "NoCacheConfig",
    "NoQuantConfig",
    "PlanError",
    "PlanSummary",
    "Quantised",
    "ReferenceConfig",
    "RtnConfig",
    "SavedPlanConfig",
    "Site",
    "SmoothConfig",
    "Statistics",
    "UniformConfig",
    "accelerated",
    "adapt_plan",
    "branch_errors",
    "calibrate",
    "collect",
    "integers_of",
    "kernel_times",
    "kernels_of",
    "load_quantised",
    "loud_forecasts",
    "quantised",
    "quantize",
    "query_flops",
    "resolve",
    "save_quantised",
    "settled",
    "shared_plan",
    "sites_of",
    "summarise",
]
