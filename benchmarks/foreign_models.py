"""Three of diffusers' classes with random weights: a DiT, an MMDiT and one for video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

N_BLOCKS, HEAD, CAPTION, WORDS = 12, 64, 32, 8


@dataclass
class Subject:
    """A model, and one call of it.

    Attributes:
        model: in eval mode.
        blocks: path of its stack.
        call: (model, latent, timestep) -> of the latent's shape.
        latent: what a generation begins with.
        streams, outputs: what `attach` is told of the blocks.
        pattern: number of cache-dit's name for the same.
    """

    model: Any
    blocks: str
    call: Callable[[Any, Tensor, float], Tensor]
    latent: Tensor
    streams: tuple[str, ...] = ("hidden_states",)
    outputs: tuple[str, ...] = ("hidden_states",)
    pattern: int = 3

    def generate(self, steps: int, before: Callable[[int], Any] = lambda step: None) -> Tensor:
        """Steps of an invented sampler."""
        x = self.latent
        with torch.no_grad():  # as diffusers' pipelines have it
            for step in range(steps):
                before(step)
                x = x - 0.05 * self.call(self.model, x, 900.0 - 50 * step)
        return x

    @contextmanager
    def computed(self) -> Iterator[list[int]]:
        """Counts, inside, how often the last block is really computed: by the first layer in it."""
        last = getattr(self.model, self.blocks)[-1]
        layer = next(m for m in last.modules() if isinstance(m, nn.Linear))
        count = [0]

        def add(*_: Any) -> None:
            count[0] += 1

        handle = layer.register_forward_hook(add)
        try:
            yield count
        finally:
            handle.remove()


def drawn(*shape: int, seed: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scrambled(model: nn.Module, scale: float = 0.03) -> nn.Module:
    """Weights that no zero initialisation hides a block behind."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return model.eval()


def pixart(heads: int, size: int) -> Subject:
    """Diffusers' own DiT reads its first block, which cache-dit takes away; PixArt is one too."""
    from diffusers import PixArtTransformer2DModel

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
    words = drawn(1, WORDS, CAPTION, seed=2)
    settings = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}

    def call(m: Any, x: Tensor, t: float) -> Tensor:
        return m(x, words, torch.full((1,), int(t)), **settings, return_dict=False)[0]

    return Subject(scrambled(model), "transformer_blocks", call, drawn(1, 4, size, size, seed=1))


def qwen_image(heads: int, size: int) -> Subject:
    """Two streams, of the image and of the words, through one stack."""
    from diffusers import QwenImageTransformer2DModel

    model = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=N_BLOCKS,
        attention_head_dim=HEAD,
        num_attention_heads=heads,
        joint_attention_dim=CAPTION,
        axes_dims_rope=(16, 24, 24),
    )
    side, words = size // 2, drawn(1, WORDS, CAPTION, seed=2)

    def call(m: Any, x: Tensor, t: float) -> Tensor:
        return m(
            hidden_states=x,
            encoder_hidden_states=words,
            encoder_hidden_states_mask=torch.ones(1, WORDS, dtype=torch.bool),
            timestep=torch.full((1,), t / 1000),
            img_shapes=[[(1, side, side)]],
            return_dict=False,
        )[0]

    return Subject(
        scrambled(model),
        "transformer_blocks",
        call,
        drawn(1, side * side, 16, seed=1),
        ("hidden_states", "encoder_hidden_states"),
        ("encoder_hidden_states", "hidden_states"),
        1,
    )


def wan(heads: int, size: int) -> Subject:
    """Two frames; the words are looked at, and pass through no block."""
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=4,
        text_dim=CAPTION,
        freq_dim=32,
        ffn_dim=4 * HEAD * heads,
        num_layers=N_BLOCKS,
        rope_max_seq_len=32,
    )
    words = drawn(1, WORDS, CAPTION, seed=2)

    def call(m: Any, x: Tensor, t: float) -> Tensor:
        return m(x, torch.full((1,), t), words, return_dict=False)[0]

    latent = drawn(1, 4, 2, size, size, seed=1)
    return Subject(scrambled(model), "blocks", call, latent, pattern=2)


SUBJECTS: dict[str, Callable[[int, int], Subject]] = {
    "PixArt": pixart,
    "QwenImage": qwen_image,
    "Wan": wan,
}
"""(heads of width 64, size of the latent) -> a model of its own."""
