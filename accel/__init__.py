"""Ways to make a diffusion policy cheaper."""

from __future__ import annotations

import skipstep  # noqa: F401  (the other names of these modules)

from .accelerated_policy import AcceleratedPolicy
from .action_errors import action_error
from .api import accelerated
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
    forecast,
)
from .caches.interval import export_interval, import_interval
from .caches.saved import adapt_plan
from .calibration.across import measure_across, with_across, worth
from .calibration.across import table as worth_table
from .calibration.branch_errors import BranchErrors, branch_errors
from .calibration.calibration import Calibration
from .calibration.measure import calibrate, complete
from .calibration.statistics import STATISTICS, Statistic
from .chosen import quantized, resolve
from .engines import (
    ENGINES,
    FusedConfig,
    ReferenceConfig,
    check_plan,
    integers_of,
    kernel_times,
    kernels_of,
    resolve_engine,
)
from .families import FAMILIES, Costs, Family
from .forecast_noise import LoudForecasts, loud_forecasts
from .plans.decisions import Threshold
from .plans.flops import encode_flops, flops_share, plain_flops, query_flops, share_of
from .plans.frozen import freeze
from .plans.plan import CachePlan, PlanError
from .plans.rows import shared_plan
from .plans.sites import Site, sites_of
from .plans.summary import PlanSummary, summarize
from .quant import (
    QUANTIZERS,
    DuQuantConfig,
    LeftOut,
    NoQuantConfig,
    Quantized,
    RtnConfig,
    SmoothConfig,
    Statistics,
    collect,
    load_quantized,
    make_packs,
    quantize,
    save_quantized,
    write_packs,
)
from .robot import LivePolicy, RobotPolicy, accelerate
from .warm import WarmStarted
from .warm_config import WARM, NoWarmConfig, WarmConfig

# older names, for scripts that have them
Quantised = Quantized
quantised = quantized
load_quantised, save_quantised = load_quantized, save_quantized
settled, summarise = resolve_engine, summarize

__all__ = [
    "CACHES",
    "ENGINES",
    "FAMILIES",
    "QUANTIZERS",
    "STATISTICS",
    "WARM",
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
    "LeftOut",
    "LivePolicy",
    "LoudForecasts",
    "NoCacheConfig",
    "NoQuantConfig",
    "NoWarmConfig",
    "PlanError",
    "PlanSummary",
    "Quantised",
    "Quantized",
    "ReferenceConfig",
    "RobotPolicy",
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
    "WarmConfig",
    "WarmStarted",
    "accelerate",
    "accelerated",
    "action_error",
    "adapt_plan",
    "attach",
    "branch_errors",
    "calibrate",
    "check_plan",
    "collect",
    "complete",
    "encode_flops",
    "export_interval",
    "flops_share",
    "forecast",
    "freeze",
    "import_interval",
    "integers_of",
    "kernel_times",
    "kernels_of",
    "load_quantised",
    "load_quantized",
    "loud_forecasts",
    "make_packs",
    "measure_across",
    "plain_flops",
    "quantised",
    "quantize",
    "quantized",
    "query_flops",
    "resolve",
    "resolve_engine",
    "save_quantised",
    "save_quantized",
    "settled",
    "share_of",
    "shared_plan",
    "sites_of",
    "summarise",
    "summarize",
    "with_across",
    "worth",
    "worth_table",
    "write_packs",
]
