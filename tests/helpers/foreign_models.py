"""Real diffusers transformers, small and with random weights, and how they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import foreign_models
from benchmarks.foreign_models import drawn

N_STEPS = 8
TIMESTEPS = [float(t) for t in range(900, 100, -100)]


@dataclass
class Foreign:
    """A model, where its blocks are, and one call of it."""

    model: nn.Module
    blocks: list[str]
    call: Callable[[Any, Tensor, float], Any]
    latent: Tensor
    streams: tuple[str, ...] = ("hidden_states",)
    outputs: tuple[str, ...] = ("hidden_states",)
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def attach_to(self) -> dict[str, Any]:
        """Keywords of `attach`."""
        return {
            "blocks": self.blocks,
            "n_steps": N_STEPS,
            "streams": self.streams,
            "outputs": self.outputs,
        }


def noise(*shape: int, seed: int = 1) -> Tensor:
    return drawn(*shape, seed=seed)


def scrambled(model: nn.Module) -> nn.Module:
    """Weights that no zero initialisation hides a block behind."""
    return foreign_models.scrambled(model, 0.08)


def dit() -> Foreign:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=4,
    )

    def call(m: Any, x: Tensor, t: float) -> Any:
        time, label = torch.full((len(x),), t), torch.ones(len(x), dtype=torch.long)
        return m(x, timestep=time.long(), class_labels=label, return_dict=False)[0]

    return Foreign(scrambled(model), ["transformer_blocks"], call, noise(2, 4, 8, 8))


def pixart() -> Foreign:
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        sample_size=8,
        patch_size=2,
        cross_attention_dim=16,
        caption_channels=12,
        norm_num_groups=4,
        use_additional_conditions=False,
    )
    words = noise(2, 5, 12, seed=2)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            x,
            encoder_hidden_states=words[: len(x)].to(x.dtype),
            timestep=torch.full((len(x),), t),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]

    return Foreign(scrambled(model), ["transformer_blocks"], call, noise(2, 4, 8, 8))


def flux() -> Foreign:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(4, 4, 8),
    )
    words, pooled = noise(2, 5, 12, seed=2), noise(2, 10, seed=3)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            hidden_states=x,
            encoder_hidden_states=words[: len(x)].to(x.dtype),
            pooled_projections=pooled[: len(x)].to(x.dtype),
            timestep=torch.full((len(x),), t),
            img_ids=torch.zeros(9, 3),
            txt_ids=torch.zeros(5, 3),
            return_dict=False,
        )[0]

    return Foreign(
        scrambled(model),
        ["transformer_blocks", "single_transformer_blocks"],
        call,
        noise(2, 9, 4),
        ("hidden_states", "encoder_hidden_states"),
        ("encoder_hidden_states", "hidden_states"),
    )


def sd3() -> Foreign:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        pos_embed_max_size=8,
    )
    words, pooled = noise(2, 5, 12, seed=2), noise(2, 10, seed=3)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            hidden_states=x,
            encoder_hidden_states=words[: len(x)].to(x.dtype),
            pooled_projections=pooled[: len(x)].to(x.dtype),
            timestep=torch.full((len(x),), t),
            return_dict=False,
        )[0]

    return Foreign(
        scrambled(model),
        ["transformer_blocks"],
        call,
        noise(2, 4, 8, 8),
        ("hidden_states", "encoder_hidden_states"),
        ("encoder_hidden_states", "hidden_states"),
    )


def cogvideo() -> Foreign:
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=12,
        num_layers=4,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=5,
    )
    words = noise(2, 5, 12, seed=2)

    def call(m: Any, x: Tensor, t: float) -> Any:
        return m(
            hidden_states=x,
            encoder_hidden_states=words[: len(x)].to(x.dtype),
            timestep=torch.full((len(x),), t),
            return_dict=False,
        )[0]

    return Foreign(
        scrambled(model),
        ["transformer_blocks"],
        call,
        noise(2, 3, 4, 8, 8),
        ("hidden_states", "encoder_hidden_states"),
        ("hidden_states", "encoder_hidden_states"),
    )


MODELS: dict[str, Callable[[], Foreign]] = {
    "DiT": dit,
    "PixArt": pixart,
    "Flux": flux,
    "SD3": sd3,
    "CogVideoX": cogvideo,
}
