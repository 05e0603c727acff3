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
    if not isinstance(model, CacheMixin):
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


def first_block(model: Any, threshold: float) -> Callable[[Run], Run]:
    """Diffusers' FirstBlockCache."""
    from diffusers import FirstBlockCacheConfig

    around = cacheable(model)
    model.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    return around


def cache_dit(
    model: Any, blocks: str, mask: Sequence[int], pattern: int = 3
) -> Callable[[Run], Run]:
    """cache-dit's DBCache, F1B0: the steps of the mask, and the first block in every step."""
    static = {"steps_computation_mask": list(mask), "steps_computation_policy": "static"}
    return _cache_dit(model, blocks, pattern, num_inference_steps=len(mask), **static)


def cache_dit_first_block(
    model: Any, blocks: str, threshold: float, steps: int, pattern: int = 3
) -> Callable[[Run], Run]:
    """cache-dit's FBCache: its DBCache, F1B0, that decides by what the first block adds."""
    decides = {"residual_diff_threshold": threshold, "num_inference_steps": steps}
    return _cache_dit(model, blocks, pattern, **decides)


def _cache_dit(model: Any, blocks: str, pattern: int, **settings: Any) -> Callable[[Run], Run]:
    """It puts one object in the place of all blocks.

    Left to itself it goes on one step late, with the last query's values.
    """
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "warning")
    import cache_dit as library

    adapter = library.BlockAdapter(
        transformer=model,
        blocks=getattr(model, blocks),
        forward_pattern=getattr(library.ForwardPattern, f"Pattern_{pattern}"),
        check_forward_pattern=False,
    )
    config = library.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=0,
        enable_separate_cfg=False,
        **settings,
    )
    library.enable_cache(adapter, cache_config=config)

    def around(run: Run) -> Run:
        def query() -> Tensor:
            library.refresh_context(model, cache_config=config)
            return run()

        return query

    return around
