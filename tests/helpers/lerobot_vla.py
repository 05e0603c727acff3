"""LeRobot's real SmolVLA at a small size with random weights; nothing is downloaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": "(Tensor input, Tensor rois, float spatial_scale, int pooled_height, "
    "int pooled_width, int sampling_ratio, bool aligned) -> Tensor",
}
JOINT = "lerobot.policies.smolvla.smolvlm_with_expert"
_library: list[Any] = []


def import_smolvla() -> Any:
    """LeRobot's module with `SmolVLAPolicy`; skips where it cannot be imported.

    torchvision beside a torch that it was not built for fails at import unless the operators that
    it describes are there; SmolVLA calls none of them.
    """
    pytest.importorskip("transformers", reason="SmolVLA needs transformers (4.57)")
    if not _library:
        _library.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name, words in OPERATORS.items():
            if not hasattr(torch.ops.torchvision, name):
                _library[0].define(f"{name}{words}")
    try:
        from lerobot.policies.smolvla import modeling_smolvla
    except Exception as error:
        pytest.skip(f"lerobot's SmolVLA (0.4.4, Python 3.11) cannot be imported: {error!r}"[:300])
    return modeling_smolvla


def small_config() -> Any:
    from transformers import SmolVLMConfig

    text = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 50,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    return SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=3, pad_token_id=0
    )


def small_smolvla(dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A `SmolVLAPolicy` in eval mode, both transformers of `dtype`."""
    modeling = import_smolvla()
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

    tokens = SimpleNamespace(fake_image_token_id=1, global_image_token_id=2)
    config = SmolVLAConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
            "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, 32, 32)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
        device="cpu",
        chunk_size=8,
        n_action_steps=8,
        max_state_dim=8,
        max_action_dim=8,
        resize_imgs_with_padding=(32, 32),
        num_vlm_layers=4,
        expert_width_multiplier=0.5,
        **settings,
    )
    torch.manual_seed(0)
    with (
        patch(f"{JOINT}.AutoConfig.from_pretrained", lambda *_, **__: small_config()),
        patch(
            f"{JOINT}.AutoProcessor.from_pretrained",
            lambda *_, **__: SimpleNamespace(tokenizer=tokens),
        ),
    ):
        policy = modeling.SmolVLAPolicy(config)
    with torch.no_grad():
        for value in policy.model.vlm_with_expert.parameters():
            if value.ndim == 2:  # larger than 0.02, so that what layers add is seen
                value.copy_(torch.randn(value.shape) / value.shape[1] ** 0.5)
    policy.model.vlm_with_expert.to(dtype)
    return policy.eval()


def lerobot_batch(rows: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """An observation of each row, as LeRobot's preprocessor gives it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "observation.images.top": torch.rand(rows, 3, 32, 32, generator=generator),
        "observation.state": torch.randn(rows, 6, generator=generator),
        "observation.language.tokens": torch.arange(4, 9).repeat(rows, 1),
        "observation.language.attention_mask": torch.ones(rows, 5, dtype=torch.bool),
    }
