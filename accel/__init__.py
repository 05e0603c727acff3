"""Ways to make a diffusion policy cheaper."""

from __future__ import annotations

from .action_errors import action_error
from .api import AcceleratedPolicy, accelerated, quantised, resolve
from .attach.attach import Attached, attach
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
from .calibration.branch_errors import BranchErrors, branch_errors
from .calibration.calibration import Calibration, calibrate
from .engines import (
    ENGINES,
    FusedConfig,
    ReferenceConfig,
    integers_of,
    kernel_times,
    kernels_of,
    settled,
)
from .families import FAMILIES, Costs, Family
from .forecast_noise import LoudForecasts, loud_forecasts
from .plans.flops import flops_share, plain_flops, query_flops
from .plans.plan import CachePlan, PlanError
from .plans.rows import shared_plan
from .plans.sites import Site, sites_of
from .plans.summary import PlanSummary, summarise
from .plans.thresholds import Threshold, freeze
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

__all__ = [
    "CACHES",
    "ENGINES",
    "FAMILIES",
    "QUANTIZERS",
    "AcceleratedPolicy",
    "Attached",
    "BacConfig",
    "BranchErrors",
    "CachePlan",
    "Calibration",
    "Costs",
    "DeepCacheConfig",
    "DuQuantConfig",
    "Family",
    "FirstBlockConfig",
    "FusedConfig",
    "HashAbConfig",
    "IntervalConfig",
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
    "TaylorConfig",
    "TeaCacheConfig",
    "Threshold",
    "UniformConfig",
    "accelerated",
    "action_error",
    "adapt_plan",
    "attach",
    "branch_errors",
    "calibrate",
    "collect",
    "flops_share",
    "freeze",
    "import_interval",
    "integers_of",
    "kernel_times",
    "kernels_of",
    "load_quantised",
    "loud_forecasts",
    "plain_flops",
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
