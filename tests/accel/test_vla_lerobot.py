"""Caches on LeRobot's real SmolVLA, and on real Gemma layers as pi0 and openpi call them, small.

Ran with lerobot 0.4.4, transformers 4.57.6, torch 2.13.0 on Python 3.11 (all but the last test);
skipped with the reason where they are not installed. LeRobot's own pi0 asks for a patched
transformers that is no package.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accel import (
    BacConfig,
    DuQuantConfig,
    HashAbConfig,
    IntervalConfig,
    TaylorConfig,
    UniformConfig,
)
from accel.vla import PrefixConfig, accelerate_vla, calibrate_vla, quantize_vla
from tests.accel.test_vla import by_hooks, one_input, same, state_of
from tests.accel.test_vla_pages import run_page
from tests.helpers.lerobot_vla import lerobot_batch, small_smolvla
from tests.helpers.vla_models import SmallConfig, SmallVla, batch_of, noise_of, small_vla

CACHES: dict[str, Any] = {
    "uniform": UniformConfig(steps=3),
    "interval": IntervalConfig(start=1, interval=3, first_block=1),
    "taylor": TaylorConfig(order=2, warm_up=3, cool_down=0, interval=4),
    "bac": BacConfig(steps=3),
    "hash_ab": HashAbConfig(steps=3),
}


class GemmaJoint(nn.Module):
    """transformers' Gemma as backbone and expert; its cache is copied, since its layers grow it."""

    def __init__(self, c: SmallConfig) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers", reason="Gemma layers are transformers'")

        def config(width: int) -> Any:
            return transformers.GemmaConfig(
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=c.n_layers,
                num_attention_heads=c.heads,
                num_key_value_heads=c.kv_heads,
                head_dim=c.head,
                vocab_size=8,
                attn_implementation="eager",
            )

        self.paligemma = nn.Module()
        self.paligemma.language_model = transformers.GemmaModel(config(c.backbone))
        self.gemma_expert = transformers.GemmaForCausalLM(config(c.expert))

    def forward(
        self,
        inputs_embeds: Any,
        attention_mask: Tensor,
        past_key_values: Any = None,
        **rest: Any,
    ) -> Any:
        mask = torch.where(attention_mask[:, None], 0.0, -1e9)
        of_prefix = inputs_embeds[1] is None
        model = self.paligemma.language_model if of_prefix else self.gemma_expert.model
        out = model(
            inputs_embeds=inputs_embeds[0 if of_prefix else 1],
            attention_mask=mask,
            past_key_values=copy.deepcopy(past_key_values),
            use_cache=of_prefix,
        )
        found = out.last_hidden_state
        return ([found, None], out.past_key_values) if of_prefix else ([None, found], None)


def gemma_vla() -> tuple[Any, dict[str, Any], Tensor]:
    policy: SmallVla = small_vla("pi0")
    torch.manual_seed(0)
    policy.model.paligemma_with_expert = GemmaJoint(policy.config)
    for value in policy.model.paligemma_with_expert.parameters():
        if value.ndim == 2:
            nn.init.normal_(value, std=value.shape[1] ** -0.5)
    return policy.eval(), batch_of(policy, 8), noise_of(policy, 8)


def real_smolvla() -> tuple[Any, dict[str, Any], Tensor]:
    noise = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(0))
    return small_smolvla(), lerobot_batch(8), noise


MADE = {"SmolVLA": real_smolvla, "Gemma": gemma_vla}


@pytest.fixture(params=MADE, scope="module")
def asked(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any], Tensor, Any]:
    policy, batch, noise = MADE[request.param]()
    return policy, batch, noise, calibrate_vla(policy, [batch], progress=False)


def test_everything_computed_and_prefixes_keep_every_bit(asked: Any) -> None:
    policy, batch, noise, _ = asked
    before = state_of(policy)
    plain = policy.predict_action_chunk(dict(batch), noise=noise)
    with accelerate_vla(policy, prefix=PrefixConfig()) as fast:
        for _ in range(2):
            assert torch.equal(policy.predict_action_chunk(dict(batch), noise=noise), plain)
    stats = fast.stats()
    assert (stats["prefixes_made"], stats["prefixes_reused"]) == (1, 1)
    assert stats["projections_saved"] == (72 if hasattr(policy.model, "vlm_with_expert") else 0)
    assert same(before, state_of(policy))
    assert torch.equal(policy.predict_action_chunk(dict(batch), noise=noise), plain)


@pytest.mark.parametrize("name", CACHES)
def test_each_cache_is_what_its_plan_says(asked: Any, name: str) -> None:
    policy, batch, noise, calibration = asked
    two = {key: value[:2] for key, value in batch.items()}
    plain = policy.predict_action_chunk(dict(two), noise=noise[:2])
    with accelerate_vla(policy, CACHES[name], calibration) as fast:
        found = policy.predict_action_chunk(dict(two), noise=noise[:2])
    assert (fast.computed == fast.plan.mask).all()
    assert 1e-6 < float((found - plain).norm() / plain.norm()) < 0.7
    assert torch.allclose(found, by_hooks(policy, fast.plan, dict(two), noise[:2]), atol=2e-5)
    if name != "hash_ab":  # its drift is of the calibration's steps, which had other inputs
        with one_input(policy):
            plain = policy.predict_action_chunk(dict(two), noise=noise[:2])
            with accelerate_vla(policy, CACHES[name], calibration):
                found = policy.predict_action_chunk(dict(two), noise=noise[:2])
        assert (found - plain).abs().max() <= 1e-5


def test_smolvla_in_bfloat16_quantised_and_by_its_page(tmp_path: Path) -> None:
    policy = small_smolvla(torch.bfloat16)
    batch, noise = lerobot_batch(), torch.randn(1, 8, 8)
    plain = policy.predict_action_chunk(dict(batch), noise=noise)
    with accelerate_vla(policy):
        assert torch.equal(policy.predict_action_chunk(dict(batch), noise=noise), plain)
    small = quantize_vla(
        policy, [lerobot_batch(2)], DuQuantConfig(min_features=16, method="rtn"), ("expert",)
    )
    assert len(small.layers) == 4 * 7
    found = small.model.predict_action_chunk(dict(batch), noise=noise)
    assert 0 < float((found - plain).norm() / plain.norm()) < 0.1
    policy = small_smolvla()
    given = {"policy": policy, "batch": batch, "batches": [lerobot_batch(8)], "folder": tmp_path}
    run_page("smolvla", given)
    assert "sample_actions" not in vars(policy.model)
