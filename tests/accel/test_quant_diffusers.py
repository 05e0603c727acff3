"""accel.quantize on a model of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import accel
from accel.quant import plan
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
