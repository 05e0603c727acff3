"""Pipelines of diffusers around small random transformers: their own loops, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.helpers.foreign_models import noise, scrambled
from tests.helpers.foreign_video_models import ALL, BACK, BOTH

STEPS = 6


@dataclass
class Looped:
    """A pipeline, how to run it to its latents, and how to attach to its transformer.

    inputs: of the pipeline.
    calls: of the transformer in each branch.
    """

    pipe: Any
    inputs: dict[str, Any]
    run: Callable[[], Tensor]
    attach_to: dict[str, Any]
    calls: dict[str, int] = field(default_factory=lambda: {"main": STEPS})


def looped(pipe: Any, settings: dict[str, Any], attach_to: dict[str, Any], **more: Any) -> Looped:
    pipe.set_progress_bar_config(disable=True)

    inputs = {"num_inference_steps": STEPS, "return_dict": False, **settings}

    def run() -> Tensor:
        return torch.as_tensor(pipe(generator=torch.Generator().manual_seed(3), **inputs)[0])

    timesteps = {"n_steps": STEPS, "timesteps": lambda: pipe.scheduler.timesteps}
    return Looped(pipe, inputs, run, {**timesteps, **attach_to}, **more)


def dit() -> Looped:
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(block_out_channels=(4,), latent_channels=4, norm_num_groups=2)
    pipe = DiTPipeline(scrambled(model), vae.eval(), DDIMScheduler())
    settings = {"class_labels": [1, 7], "output_type": "pt"}
    return looped(pipe, settings, {"blocks": ["transformer_blocks"]})


def sd3() -> Looped:
    """With skip-layer guidance in some steps, which calls the transformer once more."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    model = ALL["SD3"]().model
    texts = dict.fromkeys(
        [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")]
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = StableDiffusion3Pipeline(transformer=model, scheduler=scheduler, vae=None, **texts)
    settings = {
        "height": 64,
        "width": 64,
        "output_type": "latent",
        "guidance_scale": 4.0,
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": 0.2,
        "skip_layer_guidance_stop": 0.7,
        **prompts(12),
        "pooled_prompt_embeds": noise(1, 10, seed=3),
        "negative_pooled_prompt_embeds": noise(1, 10, seed=4),
    }
    made = {"blocks": ["transformer_blocks"], "streams": BOTH, "outputs": BACK}
    branches = {"branches": ("main", "skip")}
    return looped(pipe, settings, {**made, **branches}, calls={"main": STEPS, "skip": 3})


def wan() -> Looped:
    from diffusers import UniPCMultistepScheduler, WanPipeline

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = WanPipeline(None, None, None, scheduler, ALL["Wan"]().model)
    settings = {
        "height": 64,
        "width": 64,
        "num_frames": 5,
        "output_type": "latent",
        "guidance_scale": 4.0,
        **prompts(12),
    }
    made = {"blocks": ["blocks"], "branches": ("cond", "uncond")}
    return looped(pipe, settings, made, calls={"cond": STEPS, "uncond": STEPS})


def flux() -> Looped:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    found = ALL["Flux"]()
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = FluxPipeline(scheduler, None, None, None, None, None, found.model)
    settings = {
        "height": 48,
        "width": 48,
        "output_type": "latent",
        "true_cfg_scale": 2.0,
        **prompts(12),
        "pooled_prompt_embeds": noise(1, 10, seed=3),
        "negative_pooled_prompt_embeds": noise(1, 10, seed=4),
    }
    made = {"blocks": found.blocks, "streams": BOTH, "outputs": BACK, "timestep_scale": 0.001}
    calls = {"cond": STEPS, "uncond": STEPS}
    return looped(pipe, settings, {**made, "branches": ("cond", "uncond")}, calls=calls)


def flux_control() -> Looped:
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxControlNetModel,
        FluxControlNetPipeline,
    )

    found = ALL["Flux"]()
    control = FluxControlNetModel.from_transformer(
        found.model, num_layers=2, num_single_layers=1, attention_head_dim=16, num_attention_heads=2
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=1,
        norm_num_groups=2,
        shift_factor=0.1,
    )
    pipe = FluxControlNetPipeline(
        FlowMatchEulerDiscreteScheduler(),
        vae.eval(),
        None,
        None,
        None,
        None,
        found.model,
        scrambled(control),
    )
    settings = {
        "height": 48,
        "width": 48,
        "output_type": "latent",
        "control_image": noise(1, 3, 48, 48, seed=6).clamp(-1, 1),
        "control_guidance_end": 0.5,
        "prompt_embeds": noise(1, 5, 12, seed=2),
        "pooled_prompt_embeds": noise(1, 10, seed=3),
    }
    made = {"blocks": found.blocks, "streams": BOTH, "outputs": BACK, "timestep_scale": 0.001}
    return looped(pipe, settings, made)


def hunyuan_video_15() -> Looped:
    """In bfloat16, with guidance that stops in the middle."""
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Pipeline,
        HunyuanVideo15Transformer3DModel,
    )

    model = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=4,
        num_refiner_layers=1,
        text_embed_dim=12,
        text_embed_2_dim=8,
        image_embed_dim=6,
        rope_axes_dim=(4, 6, 6),
        target_size=16,
        task_type="t2v",
    )
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(4,) * 5)
    guider = ClassifierFreeGuidance(guidance_scale=4.0, stop=0.5)
    pipe = HunyuanVideo15Pipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=scrambled(model).to(torch.bfloat16),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=None,
        tokenizer_2=None,
        guider=guider,
    )
    pipe.vision_num_semantic_tokens = 4
    kind, settings = torch.bfloat16, dict[str, Any]()
    for number, negative in enumerate(("", "negative_")):
        settings[f"{negative}prompt_embeds"] = noise(1, 5, 12, seed=2 + number).to(kind)
        settings[f"{negative}prompt_embeds_mask"] = torch.ones(1, 5)
        settings[f"{negative}prompt_embeds_2"] = noise(1, 3, 8, seed=4 + number).to(kind)
        settings[f"{negative}prompt_embeds_mask_2"] = torch.ones(1, 3)
    settings |= {"height": 64, "width": 64, "num_frames": 5, "output_type": "latent"}
    made = {"blocks": ["transformer_blocks"], "streams": BOTH, "branches": ("cond", "uncond")}
    return looped(pipe, settings, made, calls={"cond": STEPS, "uncond": STEPS // 2})


def latte() -> Looped:
    from diffusers import DDIMScheduler, LattePipeline

    found = ALL["Latte"]()
    pipe = LattePipeline(None, None, None, found.model, DDIMScheduler())
    settings = {
        "height": 64,
        "width": 64,
        "video_length": 2,
        "output_type": "latent",
        "mask_feature": False,
        "clean_caption": False,
        "negative_prompt": None,
        **prompts(12),
    }
    return looped(pipe, settings, {"blocks": found.blocks})


def prompts(width: int) -> dict[str, Tensor]:
    return {
        "prompt_embeds": noise(1, 5, width, seed=2),
        "negative_prompt_embeds": noise(1, 5, width, seed=7),
    }


PIPELINES: dict[str, Callable[[], Looped]] = {
    "DiT": dit,
    "SD3": sd3,
    "Wan": wan,
    "Flux": flux,
    "Flux with ControlNet": flux_control,
    "HunyuanVideo15": hunyuan_video_15,
    "Latte": latte,
}
