"""From what a user names to what runs: a config to a plan, a config to a quantised copy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .caches import CACHES, NoCacheConfig
from .calibration.calibration import Calibration
from .plans.able import check_sites
from .plans.plan import CachePlan, PlanSampler
from .protocol import Accelerable
from .quant import QUANTIZERS, NoQuantConfig, Quantized, Statistics
from .quant.hashes import fingerprint

log = logging.getLogger(__name__)

SETTINGS = ("n_obs_steps", "n_action_steps", "sizes", "sampler_settings")


def entry_of(table: Mapping[str, tuple[Any, ...]], config: Any, setting: str) -> Any:
    """What a table has for a config; TypeError where it is none of them."""
    name: Any = getattr(config, "name", None)
    if name not in table or not isinstance(config, table[name][0]):
        raise TypeError(f"{setting} must be a config of {', '.join(table)} or None, got {config!r}")
    return table[name]


def resolve(policy: Accelerable, cache: Any, calibration: Calibration | None = None) -> CachePlan:
    """A cache config, a plan or None -> a plan that was checked against the policy.

    Args:
        policy: the policy that will run under the plan.
        cache: a config instance of `CACHES`, a `CachePlan` made for this policy, or None.
        calibration: of this policy; what methods with `needs` in `CACHES` need.

    Raises:
        TypeError: an unknown config. PlanError: a plan or a calibration for another policy, or none
            where one is needed. ValueError: settings that do not fit the policy.
    """
    if isinstance(cache, CachePlan):
        cache.check(policy)
        plan = cache
    else:
        cache = cache or NoCacheConfig()
        method = entry_of(CACHES, cache, "cache")
        if not isinstance(cache, NoCacheConfig):
            check_sites(policy, f"cache={cache.name}")
        plan = method.plan(cache, policy, calibration)
        if plan.mask.all() and not isinstance(cache, NoCacheConfig):
            log.info("cache=%s: every cell is computed, nothing is a hit", cache.name)
    return plan if plan.sampler else replace(plan, sampler=PlanSampler.of(policy))


def quantized(policy: Any, quant: Any, statistics: Statistics | None = None) -> Quantized | None:
    """A quantiser's config, a quantised policy or None -> one that was checked, or None.

    Args:
        policy: the policy that it will stand for.
        quant: a config instance of `QUANTIZERS`, a `Quantized` made from this policy, or None.
        statistics: of this policy and its sampler; what every quantisation needs.

    Raises:
        TypeError: an unknown config. ValueError: no statistics, or something made for another
            policy, or settings that do not fit this one.
    """
    if isinstance(quant, Quantized):
        made: Any = quant.model
        same = all(getattr(made, name) == getattr(policy, name) for name in SETTINGS)
        if not same or quant.fingerprint != fingerprint(policy):
            raise ValueError("quant was made from another policy than this one, or its sampler")
        return quant
    quant = quant or NoQuantConfig()
    make = entry_of(QUANTIZERS, quant, "quant")[1]
    if make is None:
        return None
    if statistics is None:
        raise ValueError(
            f"quant={quant.name} needs statistics of this checkpoint and sampler: make them with "
            "accel.collect(policy, ...) and pass them as `statistics`"
        )
    found: Quantized = make(policy, statistics, quant)
    return found
