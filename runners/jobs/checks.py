"""Whether a cache, a quantisation and their calibration fit the policy that they are chosen for."""

from __future__ import annotations

from typing import Any

from accel import CACHES, FusedConfig, check_plan, resolve
from accel.plans.able import check_branches, check_quantizable
from accel.plans.across import reaches_back
from accel.quant.selection import choose as choose_layers
from accel.quant.selection import linears, usual_attentions
from accel.warm_config import check_warm
from policies import DiffusionPolicy

from .calibration_choice import Recipe, check_recipe
from .chosen import Chosen
from .settings import UserError

WARM_RUNNERS = ("evaluate", "collect")
ACROSS_RUNNERS = (*WARM_RUNNERS, "show")  # others ask queries that follow no other


def check_method(chosen: Chosen) -> tuple[str, ...]:
    """Refuse what does not fit.

    Returns:
        What had to be done to a saved plan, see `CachePlan.adapted`.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    policy, recipe, name = chosen.policy, chosen.recipe, chosen.runner.name
    queries = recipe.choice.seeds or recipe.choice.data
    if queries and recipe.choice.path and not chosen.calibrates:
        raise UserError(
            "calibration.path excludes calibration.seeds and calibration.data with "
            f"runner={name}, got {recipe.choice.path} and {queries}"
        )
    if policy is None:
        return ()
    if chosen.warm is not None:
        check_warm(policy, chosen.warm, chosen.cache)
        if name not in WARM_RUNNERS:
            allowed = ", ".join(WARM_RUNNERS)
            raise UserError(f"warm needs a runner of {allowed}, got runner={name}")
    if chosen.uses_calibration:
        cache = f"cache={chosen.cache.name}"
        check_branches(policy, f"runner={name}" if chosen.calibrates else cache)
    if chosen.quantizes:
        check_quantizable(policy, f"quant={chosen.quant.name}")
    if chosen.uses_calibration or chosen.quantizes:
        check_recipe(recipe, policy, chosen.settings, evaluates=not chosen.calibrates)
    if chosen.quantizes:
        check_quant(policy, chosen.quant, recipe)
    return check_cache(policy, chosen.cache, recipe, chosen.engine, name)


def check_cache(
    policy: DiffusionPolicy,
    cache: Any,
    recipe: Recipe,
    engine: Any = None,
    runner: str = "evaluate",
) -> tuple[str, ...]:
    """Refuse a cache that does not fit the policy's sampler, its forced calibration or the engine.

    Returns:
        What had to be done to a saved plan, see `CachePlan.adapted`.
    """
    budget = getattr(cache, "steps", 1)
    if budget > policy.n_inference_steps:
        raise UserError(
            f"cache.steps must be at most {policy.n_inference_steps} (the steps of the sampler), "
            f"got {budget}"
        )
    if getattr(cache, "across", False):
        _check_across(f"cache={cache.name} with cache.across=true", runner, engine)
    calibration = recipe.forced()
    if getattr(cache, "across", False) and CACHES[cache.name].calibrated and not calibration:
        raise UserError(
            f"cache={cache.name} with cache.across=true needs calibration.path, a calibration with "
            "consecutive queries: `python benchmarks/across.py --into FOLDER` makes one"
        )
    if calibration or not CACHES[cache.name].calibrated:
        plan = resolve(policy, cache, calibration)
        check_plan(engine, plan, policy)
        if reaches_back(plan):
            _check_across(f"cache={cache.name}, a plan across queries,", runner, engine)
        return plan.adapted
    return ()


def _check_across(what: str, runner: str, engine: Any) -> None:
    if runner not in ACROSS_RUNNERS:
        raise UserError(
            f"{what} needs a runner of {', '.join(ACROSS_RUNNERS)}, got runner={runner}"
        )
    if isinstance(engine, FusedConfig):
        raise UserError(f"{what} needs engine=reference, got engine={engine.name}")


def check_quant(policy: DiffusionPolicy, quant: Any, recipe: Recipe) -> None:
    """Refuse patterns that do nothing, and foreign statistics."""
    choose_layers(linears(policy, usual_attentions(policy)), quant)
    statistics = recipe.forced_statistics()
    if statistics is not None:
        try:
            statistics.check(policy)
        except ValueError as error:
            raise UserError(f"calibration.path {recipe.choice.path}: {error}") from error
