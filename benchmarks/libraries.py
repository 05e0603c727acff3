"""Caches of other libraries on any stack of blocks; each returns what has to be around a query."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[], Tensor]


def cacheable(model: nn.Module) -> Callable[[Run], Run]:
    """Give a model diffusers' `enable_cache` and `cache_context`; each query starts anew."""
    from diffusers.models.cache_utils import CacheMixin

    mixed: Any = model
    mixed.__class__ = type("Cacheable", (CacheMixin, type(model)), {})

    def around(run: Run) -> Run:
        def query() -> Tensor:
            mixed._reset_stateful_cache()
            with mixed.cache_context("query"):
                return run()

        return query

    return around


def taylorseer(model: Any, blocks: str, interval: int) -> Callable[[Run], Run]:
    """Diffusers' TaylorSeer of order 0 on the last block's output, the others skipped.

    Its schedule is a fixed interval.
    """
    from diffusers import TaylorSeerCacheConfig

    around, last = cacheable(model), len(getattr(model, blocks)) - 1
    model.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=interval,
            disable_cache_before_step=1,
            max_order=0,
            taylor_factors_dtype=torch.float32,
            skip_predict_identifiers=[rf"{blocks}\.(?!{last}$)\d+"],
            cache_identifiers=[rf"{blocks}\.{last}"],
        )
    )
    return around


def cache_dit(model: Any, blocks: str, mask: Sequence[int]) -> Callable[[Run], Run]:
    """cache-dit's DBCache, F1B0: the steps of the mask, and the first block in every step.

    It puts one object in the place of all blocks. Left to itself it goes on one step late, with the
    last query's values.
    """
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "warning")
    import cache_dit as library

    adapter = library.BlockAdapter(
        transformer=model,
        blocks=getattr(model, blocks),
        forward_pattern=library.ForwardPattern.Pattern_3,
        check_forward_pattern=False,
    )
    config = library.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=0,
        enable_separate_cfg=False,
        num_inference_steps=len(mask),
        steps_computation_mask=list(mask),
        steps_computation_policy="static",
    )
    library.enable_cache(adapter, cache_config=config)

    def around(run: Run) -> Run:
        def query() -> Tensor:
            library.refresh_context(model, cache_config=config)
            return run()

        return query

    return around
