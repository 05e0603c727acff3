"""Ways to make a diffusion policy cheaper."""

from __future__ import annotations

from .action_errors import action_error
from .api import AcceleratedPolicy, accelerated, quantised, resolve
from .attach.attach import attach
from .attach.attached import Attached
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
from .calibration.calibration import Calibration
from .calibration.measure import calibrate, complete
from .calibration.statistics import STATISTICS, Statistic
from .engines import (
    ENGINES,
    FusedConfig,
    ReferenceConfig,
    check_plan,
    integers_of,
    kernel_times,
    kernels_of,
    settled,
)
from .forecast_noise import LoudForecasts, loud_forecasts
from .plans.decisions import Threshold
from .plans.flops import flops_share, plain_flops, query_flops
from .plans.frozen import freeze
from .plans.plan import CachePlan, PlanError
from .plans.rows import shared_plan
from .plans.sites import Site, sites_of
from .plans.summary import PlanSummary, summarise
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
    "QUANTIZERS",
    "STATISTICS",
    "AcceleratedPolicy",
    "Attached",
    "BacConfig",
    "BranchErrors",
    "CachePlan",
    "Calibration",
    "DeepCacheConfig",
    "DuQuantConfig",
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
    "Statistic",
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
    "check_plan",
    "collect",
    "complete",
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
