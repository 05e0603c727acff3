"""Further diffusers transformers, small and with random weights: video, ControlNet, two stacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.helpers.foreign_models import MODELS, Foreign, noise, scrambled

BOTH = ("hidden_states", "encoder_hidden_states")
BACK = ("encoder_hidden_states", "hidden_states")


def like(x: Tensor, words: Tensor) -> Tensor:
    """As many rows as x, of its type."""
    return words[: len(x)].to(x.dtype)


def times(x: Tensor, t: float) -> Tensor:
    return torch.full((len(x),), t, dtype=x.dtype)


def hunyuan_video() -> Foreign:
    from diffusers import HunyuanVideoTransformer3DModel

    model = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=12,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
        guidance_embeds=True,
    )
    words, pooled = noise(2, 5, 12, seed=2), noise(2, 8, seed=3)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            hidden_states=x,
            timestep=times(x, t),
            encoder_hidden_states=like(x, words),
            encoder_attention_mask=torch.ones(len(x), 5),
            pooled_projections=like(x, pooled),
            guidance=times(x, 6.0),
            return_dict=False,
        )[0]

    stacks = ["transformer_blocks", "single_transformer_blocks"]
    return Foreign(scrambled(model), stacks, call, noise(2, 4, 2, 4, 4), BOTH, BOTH)


def hunyuan_video_15() -> Foreign:
    from diffusers import HunyuanVideo15Transformer3DModel

    model = HunyuanVideo15Transformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=4,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=12,
        text_embed_2_dim=8,
        image_embed_dim=6,
        rope_axes_dim=(4, 6, 6),
        target_size=16,
        task_type="t2v",
    )
    words, glyphs = noise(2, 5, 12, seed=2), noise(2, 3, 8, seed=3)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            hidden_states=x,
            timestep=times(x, t),
            encoder_hidden_states=like(x, words),
            encoder_attention_mask=torch.ones(len(x), 5),
            encoder_hidden_states_2=like(x, glyphs),
            encoder_attention_mask_2=torch.ones(len(x), 3),
            image_embeds=torch.zeros(len(x), 4, 6, dtype=x.dtype),
            return_dict=False,
        )[0]

    return Foreign(scrambled(model), ["transformer_blocks"], call, noise(2, 4, 2, 4, 4), BOTH, BOTH)


def wan() -> Foreign:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=32,
        ffn_dim=32,
        num_layers=4,
        rope_max_seq_len=32,
    )
    words = noise(2, 5, 12, seed=2)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(x, times(x, t), like(x, words), return_dict=False)[0]

    return Foreign(scrambled(model), ["blocks"], call, noise(2, 4, 2, 8, 8))


def ltx() -> Foreign:
    from diffusers import LTXVideoTransformer3DModel

    model = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=4,
        caption_channels=12,
    )
    words = noise(2, 5, 12, seed=2)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            hidden_states=x,
            encoder_hidden_states=like(x, words),
            timestep=times(x, t),
            encoder_attention_mask=torch.ones(len(x), 5),
            num_frames=2,
            height=4,
            width=4,
            return_dict=False,
        )[0]

    return Foreign(scrambled(model), ["transformer_blocks"], call, noise(2, 32, 8))


def mochi() -> Foreign:
    from diffusers import MochiTransformer3DModel

    model = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=4,
        pooled_projection_dim=16,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        max_sequence_length=5,
    )
    words = noise(2, 5, 16, seed=2)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            hidden_states=x,
            encoder_hidden_states=like(x, words),
            timestep=times(x, t),
            encoder_attention_mask=torch.ones(len(x), 5, dtype=torch.bool),
            return_dict=False,
        )[0]

    return Foreign(scrambled(model), ["transformer_blocks"], call, noise(2, 4, 2, 8, 8), BOTH, BOTH)


def qwen_image() -> Foreign:
    from diffusers import QwenImageTransformer2DModel

    model = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(4, 6, 6),
    )
    words = noise(2, 5, 12, seed=2)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            hidden_states=x,
            encoder_hidden_states=like(x, words),
            encoder_hidden_states_mask=torch.ones(len(x), 5, dtype=torch.bool),
            timestep=times(x, t / 1000),
            img_shapes=[[(1, 4, 4)]] * len(x),
            return_dict=False,
        )[0]

    return Foreign(scrambled(model), ["transformer_blocks"], call, noise(2, 16, 16), BOTH, BACK)


def flux_control() -> Foreign:
    """Flux with the samples of a ControlNet, which it adds between its blocks."""
    plain = MODELS["Flux"]()
    double, single = noise(2, 2, 9, 32, seed=4), noise(3, 2, 9, 32, seed=5)
    words, pooled = noise(2, 5, 12, seed=2), noise(2, 10, seed=3)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            hidden_states=x,
            encoder_hidden_states=like(x, words),
            pooled_projections=like(x, pooled),
            timestep=times(x, t / 1000),
            img_ids=torch.zeros(9, 3),
            txt_ids=torch.zeros(5, 3),
            controlnet_block_samples=[like(x, sample) for sample in double],
            controlnet_single_block_samples=[like(x, sample) for sample in single],
            return_dict=False,
        )[0]

    return Foreign(plain.model, plain.blocks, call, plain.latent, BOTH, BACK)


def latte() -> Foreign:
    """Its spatial stack alone; the temporal blocks run between."""
    from diffusers import LatteTransformer3DModel

    model = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=16,
        caption_channels=12,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        activation_fn="gelu-approximate",
        attention_bias=True,
        video_length=2,
    )
    words = noise(2, 5, 12, seed=2)

    def call(m: Any, x: Tensor, t: float) -> Any:
        out = m(x, times(x, t), like(x, words), return_dict=False)[0]
        return out[:, :4]

    return Foreign(scrambled(model), ["transformer_blocks"], call, noise(2, 4, 2, 8, 8))


def latte_in_turn() -> Foreign:
    """Both of its stacks, whose blocks alternate."""
    made = latte()
    stacks = ("transformer_blocks", "temporal_transformer_blocks")
    made.blocks = [f"{stack}.{i}" for i in range(3) for stack in stacks]
    return made


ALL: dict[str, Callable[[], Foreign]] = {
    **MODELS,
    "HunyuanVideo": hunyuan_video,
    "HunyuanVideo15": hunyuan_video_15,
    "Wan": wan,
    "LTX": ltx,
    "Mochi": mochi,
    "QwenImage": qwen_image,
    "Flux with ControlNet": flux_control,
    "Latte, spatial": latte,
    "Latte": latte_in_turn,
}
