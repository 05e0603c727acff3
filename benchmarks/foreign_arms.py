"""A small PixArt, and ways of caching it; each function makes one that runs a generation."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], Tensor]
N_BLOCKS = 12
HEAD = 64
CAPTION = 32


def model_of(heads: int, size: int) -> Any:
    """A PixArt with random weights (DiT reads its first block, which cache-dit takes away)."""
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=4,
        num_layers=N_BLOCKS,
        sample_size=size,
        patch_size=2,
        cross_attention_dim=HEAD * heads,
        caption_channels=CAPTION,
        use_additional_conditions=False,
    )
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.03)
    return model.eval()


def generation(model: Any, steps: int, size: int, before: Callable[[int], None]) -> Tensor:
    """Steps of an invented sampler."""
    x = torch.randn((1, 4, size, size), generator=torch.Generator().manual_seed(1))
    words = torch.randn((1, 8, CAPTION), generator=torch.Generator().manual_seed(2))
    settings = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    with torch.inference_mode():
        for step in range(steps):
            before(step)
            time = torch.full((1,), 900 - 50 * step)
            x = x - 0.05 * model(x, words, time, **settings, return_dict=False)[0]
    return x


def plain(options: argparse.Namespace) -> Run:
    model = model_of(options.heads, options.size)
    return lambda: generation(model, options.steps, options.size, lambda step: None)


def ours(cache: Any, kind: str) -> Callable[[argparse.Namespace], Run]:
    def make(options: argparse.Namespace) -> Run:
        from accel import attach

        model = model_of(options.heads, options.size)
        attached = attach(model, ["transformer_blocks"], options.steps, cache, kind=kind)

        def run() -> Tensor:
            attached.begin()
            return generation(model, options.steps, options.size, attached.step)

        return run

    return make


def taylorseer(options: argparse.Namespace) -> Run:
    """Diffusers' TaylorSeer of order 0 on the last block, the others skipped."""
    from diffusers import TaylorSeerCacheConfig
    from diffusers.models.cache_utils import CacheMixin

    model = model_of(options.heads, options.size)
    last = N_BLOCKS - 1
    config = TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=1,
        max_order=0,
        taylor_factors_dtype=torch.float32,
        skip_predict_identifiers=[rf"transformer_blocks\.(?!{last}$)\d+"],
        cache_identifiers=[rf"transformer_blocks\.{last}"],
    )
    model.__class__ = type("Cacheable", (CacheMixin, type(model)), {})
    model.enable_cache(config)

    def run() -> Tensor:
        model._reset_stateful_cache()
        with model.cache_context("generation"):
            return generation(model, options.steps, options.size, lambda step: None)

    return run


def cache_dit(options: argparse.Namespace) -> Run:
    """cache-dit's DBCache, F1B0, with every second step in its static mask."""
    from cache_dit import (
        BlockAdapter,
        DBCacheConfig,
        ForwardPattern,
        enable_cache,
        refresh_context,
    )

    model = model_of(options.heads, options.size)
    adapter = BlockAdapter(
        transformer=model,
        blocks=model.transformer_blocks,
        forward_pattern=ForwardPattern.Pattern_3,
        check_forward_pattern=False,
    )
    config = DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=0,
        enable_separate_cfg=False,
        num_inference_steps=options.steps,
        steps_computation_mask=[1 - step % 2 for step in range(options.steps)],
        steps_computation_policy="static",
    )
    enable_cache(adapter, cache_config=config)

    def run() -> Tensor:
        refresh_context(model, cache_config=config)
        return generation(model, options.steps, options.size, lambda step: None)

    return run


def arms() -> dict[str, Callable[[argparse.Namespace], Run]]:
    """Name -> how to make it; one that is compared with follows the one it is compared with."""
    from accel import IntervalConfig

    even = {"start": 0, "interval": 2}
    return {
        "plain": plain,
        "attach, everything computed": ours(None, "delta"),
        "diffusers TaylorSeer, order 0": taylorseer,
        "attach, output of the stack": ours(IntervalConfig(**even), "output"),
        "cache-dit, F1B0": cache_dit,
        "attach, blocks after the first": ours(IntervalConfig(**even, first_block=1), "delta"),
    }


BESIDE = {
    "attach, output of the stack": "diffusers TaylorSeer, order 0",
    "attach, blocks after the first": "cache-dit, F1B0",
}
