"""Quantised experts and backbones of small VLA policies, with and without a cache."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from accel import DuQuantConfig, RtnConfig, UniformConfig
from accel.quant.linear import QuantisedLinear
from accel.vla import accelerate_vla, quantize_vla
from tests.accel.test_vla import same, state_of
from tests.helpers.vla_models import batch_of, noise_of, small_vla

SMALL = {"min_features": 16, "method": "rtn"}
EXPERT = {"smolvla": "lm_expert.layers", "pi05": "gemma_expert.model.layers"}
BACKBONE = {"smolvla": "vlm.text_model.layers", "pi05": "paligemma.model.layers"}


def apart(found: Tensor, plain: Tensor) -> float:
    return float((found - plain).norm() / plain.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", EXPERT)
def test_expert_and_backbone_are_quantised_and_cached(kind: str, dtype: torch.dtype) -> None:
    policy = small_vla(kind, dtype, n_layers=2)
    batch, noise, before = batch_of(policy), noise_of(policy), state_of(policy)
    plain = policy.predict_action_chunk(batch, noise)
    small = quantize_vla(
        policy, [batch_of(policy, 2, seed=3)], DuQuantConfig(**SMALL), ("expert", "backbone")
    )
    names = {layer.name for layer in small.layers}
    of = [sum(part[kind] in name for name in names) for part in (EXPERT, BACKBONE)]
    assert of == [14, 14]  # q, k, v, o and three of the mlp, in two layers each
    assert len(names) == 28
    quantised = small.model.predict_action_chunk(batch, noise)
    assert 0 < apart(quantised, plain) < 0.1
    assert not small.idle()
    with accelerate_vla(small.model) as fast:
        assert torch.equal(small.model.predict_action_chunk(batch, noise), quantised)
        fast.update_config(UniformConfig(steps=4))
        cached = small.model.predict_action_chunk(batch, noise)
        assert fast.stats()["computed_share"] == 0.4
    assert 0 < apart(cached, quantised) < 0.7
    assert torch.equal(small.model.predict_action_chunk(batch, noise), quantised)
    assert same(before, state_of(policy))
    assert torch.equal(policy.predict_action_chunk(batch, noise), plain)


def test_parts_are_chosen_by_name() -> None:
    policy = small_vla(n_layers=2)
    batches = [batch_of(policy, 2)]
    config = RtnConfig(weight_bits=4, min_features=16, include=("o_proj$", "mlp"))
    small = quantize_vla(policy, batches, config, ("expert",))
    assert {layer.weight_bits for layer in small.layers} == {4}
    assert len(small.layers) == 8
    assert not [
        m for m in small.model.model.vlm_with_expert.vlm.modules() if type(m) is QuantisedLinear
    ]
    with pytest.raises(ValueError, match="parts must be among expert, backbone, got 'expert'"):
        quantize_vla(policy, batches, config, "expert")
    with (
        accelerate_vla(policy),
        pytest.raises(RuntimeError, match=r"accelerated or compiled: disable\(\) that"),
    ):
        quantize_vla(policy, batches, config)
