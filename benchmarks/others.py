"""What other libraries make of the stock network; each raises or returns an arm."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import Tensor, nn

from accel import query_flops

from . import libraries
from .setting import Arm, Setting, Unavailable
from .stock import act, stock_arm, stock_policy


class Loop(nn.TransformerDecoder):
    """The stock decoder without its look at the mask and at the attributes of its first layer.

    torch.compile would break the graph there, and cache-dit puts one object in the layers' place.
    """

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
    live.model.decoder.__class__ = Loop
    torch.compiler.reset()
    live.model = torch.compile(live.model, dynamic=False, options={"freezing": True})
    flops = query_flops(setting.policy, setting.full())
    return Arm(lambda: act(live, setting.obs, setting.noise()), flops, flops, "inductor, freezing")


def cache_dit(setting: Setting) -> Arm:
    """The exact schedule of the uniform arm as its static mask of steps."""
    live = stock_policy(setting.policy)
    live.model.decoder.__class__ = Loop
    mask = setting.plan.mask[:, 0].astype(int).tolist()
    around = libraries.cache_dit(live.model.decoder, "layers", mask)
    return stock_arm(setting, live, around, "same steps, layer 0 always")


def taylorseer(setting: Setting) -> Arm:
    """The interval is the one that computes about S steps."""
    live = stock_policy(setting.policy)
    interval = max(1, round(setting.policy.n_inference_steps / setting.steps))
    around = libraries.taylorseer(live.model.decoder, "layers", interval)
    return stock_arm(setting, live, around, f"every {interval} steps")


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
        decoder = live.model.decoder
        around = libraries.cacheable(decoder)
        for layer in decoder.layers:
            layer.__class__ = Block
        decoder.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        return stock_arm(setting, live, around, f"threshold {threshold:.3g}")

    first_layer, sizes = setting.full(), setting.policy.sizes
    first_layer[:, len(sizes.branches) :] = False
    target = query_flops(setting.policy, setting.plan.mask | first_layer)
    layer = query_flops(setting.policy, setting.full()) / (len(first_layer) * sizes.n_layer)
    low, high = 1e-4, 10.0
    for _ in range(8):  # more steps are computed below a smaller threshold
        middle = (low * high) ** 0.5
        arm = attach(middle)
        if abs(arm.flops - target) < layer:
            break
        low, high = (middle, high) if arm.flops > target else (low, middle)
    return arm


def attention_only(setting: Setting) -> Arm:
    """Diffusers' PyramidAttentionBroadcast, and FasterCache, which looks for the same classes."""
    from diffusers import PyramidAttentionBroadcastConfig

    decoder = stock_policy(setting.policy).model.decoder
    libraries.cacheable(decoder)
    decoder.enable_cache(
        PyramidAttentionBroadcastConfig(
            cross_attention_block_skip_range=2, current_timestep_callback=lambda: 0
        )
    )
    hooks = [m._diffusers_hook for m in decoder.modules() if "_diffusers_hook" in m.__dict__]
    if any(hook.hooks for hook in hooks):
        raise Unavailable("attaches now: give it an arm")
    raise Unavailable("hooks diffusers' own Attention classes only, none of which is here")
