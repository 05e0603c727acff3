"""What other libraries make of the stock network; each raises or returns an arm."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from accel import query_flops

from .setting import Arm, Setting, Unavailable
from .stock import act, stock_arm, stock_policy


class Loop(nn.TransformerDecoder):
    """The stock decoder without its look at the mask and at the attributes of its first layer."""

    def forward(  # type: ignore[override]
        self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None, memory_mask: Tensor | None
    ) -> Tensor:
        for layer in self.layers:
            tgt = layer(tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask)
        return tgt


def compiled(setting: Setting) -> Arm:
    """torch.compile with inductor's freezing: weights are constants, and packed."""
    if not any(shutil.which(name) for name in ("g++", "clang++")):
        raise Unavailable("torch.compile needs a C++ compiler: apt install g++")
    live = stock_policy(setting.policy)
    live.model.decoder.__class__ = Loop  # torch's own breaks the graph to look at the mask
    torch.compiler.reset()
    live.model = torch.compile(live.model, dynamic=False, options={"freezing": True})
    flops = query_flops(setting.policy, setting.full())
    return Arm(lambda: act(live, setting.obs, setting.noise()), flops, flops, "inductor, freezing")


def cache_dit(setting: Setting) -> Arm:
    """cache-dit's DBCache with the exact schedule as its static mask of steps.

    It computes at least the first block in every step (F1B0), and puts one object in the place of
    all layers, which torch's own decoder cannot run.
    """
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "warning")
    try:
        from cache_dit import (
            BlockAdapter,
            DBCacheConfig,
            ForwardPattern,
            enable_cache,
            refresh_context,
        )
    except ImportError as error:
        raise Unavailable(f"{error}; pip install cache-dit") from error
    live = stock_policy(setting.policy)
    decoder = live.model.decoder
    decoder.__class__ = Loop
    adapter = BlockAdapter(
        transformer=decoder,
        blocks=decoder.layers,
        forward_pattern=ForwardPattern.Pattern_3,
        check_forward_pattern=False,
    )
    config = DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=0,
        enable_separate_cfg=False,
        num_inference_steps=setting.policy.n_inference_steps,
        steps_computation_mask=setting.plan.mask[:, 0].astype(int).tolist(),
        steps_computation_policy="static",
    )
    enable_cache(adapter, cache_config=config)

    def query() -> Tensor:  # left to itself it goes on one step late, with the last query's values
        refresh_context(decoder, cache_config=config)
        return act(live, setting.obs, setting.noise())

    return stock_arm(setting, live, query, "same steps, layer 0 always")


def _cachable(live: Any) -> Any:
    """The stock decoder with diffusers' `enable_cache` and `cache_context`."""
    try:
        from diffusers.models.cache_utils import CacheMixin
    except ImportError as error:
        raise Unavailable(f"{error}; pip install 'diffusers>=0.36'") from error

    class Decoder(CacheMixin, nn.TransformerDecoder):
        pass

    live.model.decoder.__class__ = Decoder
    return live.model.decoder


def _hooked(setting: Setting, live: Any, decoder: Any) -> Any:
    def query() -> Tensor:
        decoder._reset_stateful_cache()
        with decoder.cache_context("policy"):
            return act(live, setting.obs, setting.noise())

    return query


def taylorseer(setting: Setting) -> Arm:
    """Diffusers' TaylorSeer on the last layer's output, order 0, the layers before it skipped.

    Its schedule is a fixed interval; the interval is the one that computes about S steps.
    """
    from diffusers import TaylorSeerCacheConfig

    live = stock_policy(setting.policy)
    decoder = _cachable(live)
    last = len(decoder.layers) - 1
    interval = max(1, round(setting.policy.n_inference_steps / setting.steps))
    decoder.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=interval,
            disable_cache_before_step=1,
            max_order=0,
            taylor_factors_dtype=torch.float32,
            skip_predict_identifiers=[rf"layers\.(?!{last}$)\d+"],
            cache_identifiers=[rf"layers\.{last}"],
        )
    )
    return stock_arm(setting, live, _hooked(setting, live, decoder), f"every {interval} steps")


def first_block(setting: Setting) -> Arm:
    """Diffusers' FirstBlockCache, with the threshold that computes about S steps of this query."""
    from diffusers import FirstBlockCacheConfig
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

    class Block(nn.TransformerDecoderLayer):
        """The hook looks its input up under this argument's name."""

        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
            return super().forward(hidden_states, *args, **kwargs)

    TransformerBlockRegistry.register(Block, TransformerBlockMetadata(return_hidden_states_index=0))

    def attach(threshold: float) -> Arm:
        live = stock_policy(setting.policy)
        decoder = _cachable(live)
        for layer in decoder.layers:
            layer.__class__ = Block
        decoder.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        note = f"threshold {threshold:.3g}"
        return stock_arm(setting, live, _hooked(setting, live, decoder), note)

    n_steps, n_layers = setting.plan.n_steps, setting.policy.sizes.n_layer
    per_layer = setting.full()
    per_layer[:, len(setting.policy.sizes.branches) :] = False
    target = query_flops(setting.policy, setting.plan.mask | per_layer)
    low, high = 1e-4, 10.0
    for _ in range(8):  # more steps are computed below a smaller threshold
        middle = (low * high) ** 0.5
        arm = attach(middle)
        if abs(arm.flops - target) * n_steps * n_layers < query_flops(
            setting.policy, setting.full()
        ):
            break
        low, high = (middle, high) if arm.flops > target else (low, middle)
    return arm


def attention_only(setting: Setting) -> Arm:
    """Diffusers' PyramidAttentionBroadcast, and FasterCache, which looks for the same classes."""
    from diffusers import PyramidAttentionBroadcastConfig

    decoder = _cachable(stock_policy(setting.policy))
    decoder.enable_cache(
        PyramidAttentionBroadcastConfig(
            cross_attention_block_skip_range=2, current_timestep_callback=lambda: 0
        )
    )
    hooked = sum(
        bool(m._diffusers_hook.hooks) for m in decoder.modules() if "_diffusers_hook" in m.__dict__
    )
    if not hooked:
        raise Unavailable("hooks diffusers' own Attention classes only, none of which is here")
    raise Unavailable("attaches now: give it an arm")
