"""accel.quantize on a model of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import accel
from accel.quant import plan
from accel.quant.config import EARLIER_LAYERS
from accel.quant.report import left_out, shares_of
from accel.quant.selection import choose, linears, reasons
from tests.helpers.quant_data import relative

diffusers = pytest.importorskip("diffusers")


def run(model: Any, batch: torch.Tensor) -> torch.Tensor:
    steps, labels = torch.tensor([7, 400]), torch.tensor([1, 2])
    found: torch.Tensor = model(batch, timestep=steps, class_labels=labels).sample
    return found


@pytest.fixture(scope="module")
def dit() -> Any:
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=10,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def statistics(dit: Any) -> accel.Statistics:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3)]
    return accel.collect(dit, batches, 3, run=run)


def test_a_transformer_of_diffusers_is_quantised(
    dit: Any, statistics: accel.Statistics, tmp_path: Path
) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    before = {name: tensor.clone() for name, tensor in dit.state_dict().items()}
    with torch.no_grad():
        plain = run(dit, x)
        errors = {}
        for bits in (4, 8, 16):
            config = accel.DuQuantConfig(
                weight_bits=bits, activation_bits=max(bits, 8), method="duquant"
            )
            quantised = accel.quantize(dit, statistics, config)
            errors[bits] = relative(run(quantised.model, x), plain)
        assert torch.equal(run(dit, x), plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dit.state_dict().items())
    assert errors[16] < 2e-6
    assert 1e-4 < errors[8] < 0.03
    assert errors[8] < errors[4] < 0.3
    names = {layer.name for layer in quantised.layers}
    for part in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.2"):
        assert {f"transformer_blocks.{i}.{part}" for i in range(2)} <= names
    assert all(name.startswith("transformer_blocks.") for name in names)
    accel.save_quantized(quantised, tmp_path / "dit.safetensors")
    loaded = accel.load_quantized(tmp_path / "dit.safetensors", dit)
    with torch.no_grad():
        assert torch.equal(run(loaded.model, x), run(quantised.model, x))


def test_layers_are_chosen_by_pattern(dit: Any, statistics: accel.Statistics) -> None:
    config = accel.RtnConfig(include=(r"attn1\.to_[qkv]$",), layer_bits={r"to_v": 4})
    found = {layer.name: layer.weight_bits for layer in plan(dit, statistics, config)}
    expected = {"to_q": 8, "to_k": 8, "to_v": 4}
    assert found == {
        f"transformer_blocks.{i}.attn1.{name}": bits
        for i in range(2)
        for name, bits in expected.items()
    }


def flux() -> tuple[Any, dict[str, Any]]:
    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=64,
        pooled_projection_dim=10,
        axes_dims_rope=(8, 8, 16),
    )
    return model, {
        "hidden_states": torch.randn(1, 16, 4),
        "encoder_hidden_states": torch.randn(1, 8, 64),
        "pooled_projections": torch.randn(1, 10),
        "timestep": torch.ones(1),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
    }


def hunyuan_video() -> tuple[Any, dict[str, Any]]:
    model = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=32,
        num_layers=1,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=2,
        text_embed_dim=64,
        pooled_projection_dim=16,
        rope_axes_dim=(8, 12, 12),
    )
    return model, {
        "hidden_states": torch.randn(1, 4, 1, 8, 8),
        "timestep": torch.ones(1).long(),
        "encoder_hidden_states": torch.randn(1, 8, 64),
        "encoder_attention_mask": torch.ones(1, 8),
        "pooled_projections": torch.randn(1, 16),
        "guidance": torch.ones(1),
    }


def latte() -> tuple[Any, dict[str, Any]]:
    model = diffusers.LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=64,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        num_embeds_ada_norm=1000,
        caption_channels=64,
        video_length=2,
    )
    return model, {
        "hidden_states": torch.randn(1, 4, 2, 8, 8),
        "encoder_hidden_states": torch.randn(1, 8, 64),
        "timestep": torch.ones(1).long(),
    }


@pytest.mark.parametrize("make", [flux, hunyuan_video, latte])
def test_the_default_covers_the_blocks(make: Any) -> None:
    torch.manual_seed(0)
    model, inputs = make()
    statistics = accel.collect(model.eval(), [inputs], 1, run=lambda m, b: m(**b))
    found, config = linears(model, statistics.attentions), accel.RtnConfig()
    shares, why = shares_of(found, statistics), reasons(found, config)
    missing = left_out(model, found, why, statistics)
    covered = sum(shares[name] for name in choose(found, config))
    assert covered + sum(layer.share for layer in missing) == pytest.approx(1)
    assert covered > 0.95
    assert covered / (covered + sum(x.share for x in missing if x.in_block)) > 0.95
    earlier = accel.RtnConfig(include=(EARLIER_LAYERS,))
    assert len(choose(found, earlier)) < len(choose(found, config))  # what was left out unsaid
    quantised = accel.quantize(model, statistics, config, backend="torch")
    with torch.no_grad():
        assert relative(quantised.model(**inputs)[0], model(**inputs)[0]) < 0.01
    assert quantised.idle() == ()
    assert quantised.left_out == missing
