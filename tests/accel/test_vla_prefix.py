"""Prefixes of VLA policies across queries: when they are used again, and when not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from accel import UniformConfig
from accel.vla import PrefixConfig, accelerate_vla
from tests.accel.test_vla import same, state_of
from tests.helpers.vla_models import KINDS, batch_of, noise_of, small_vla


def counts(fast: Any) -> tuple[int, int, int]:
    stats = fast.stats()
    return stats["prefixes_made"], stats["prefixes_reused"], stats["prefixes_stale"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_equal_observation_reuses_its_prefix_to_the_bit(kind: str) -> None:
    policy = small_vla(kind)
    first, second, before = batch_of(policy), batch_of(policy, seed=1), state_of(policy)
    noises = [noise_of(policy, seed=seed) for seed in range(3)]
    asked = [(first, 0), (first, 1), (second, 1), (second, 2), (first, 0)]
    plain = [policy.predict_action_chunk(batch, noises[i]) for batch, i in asked]
    with accelerate_vla(policy, prefix=PrefixConfig()) as fast:
        found = [policy.predict_action_chunk(batch, noises[i]) for batch, i in asked]
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
        assert counts(fast) == (3, 2, 0)
    assert same(before, state_of(policy))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_is_used_for_other_observations_within_its_age(kind: str) -> None:
    policy = small_vla(kind)
    noise, batches = noise_of(policy), [batch_of(policy, seed=seed) for seed in range(5)]
    plain = [policy.predict_action_chunk(batch, noise) for batch in batches]
    with accelerate_vla(policy, prefix=PrefixConfig(max_age=2)) as fast:
        found = [policy.predict_action_chunk(batch, noise) for batch in batches]
        assert counts(fast) == (2, 3, 3)
        # queries 0 to 2 act on the first observation, 3 and 4 on the fourth
        wanted = [plain[i] for i in (0, 0, 0, 3, 3)]
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        policy.reset()  # another episode
        assert torch.equal(policy.predict_action_chunk(batches[4], noise), plain[4])
    for batch, want in zip(batches, plain, strict=True):
        assert torch.equal(policy.predict_action_chunk(batch, noise), want)


def test_text_rows_and_shapes_always_make_another_prefix() -> None:
    policy = small_vla()
    first, noise = batch_of(policy), noise_of(policy)
    words = {**first, "observation.language.tokens": torch.full((1, 5), 7)}
    masked = {**first, "observation.language.attention_mask": torch.tensor([[True] * 4 + [False]])}
    both, two = batch_of(policy, 2), noise_of(policy, 2)
    plain = [policy.predict_action_chunk(words, noise), policy.predict_action_chunk(both, two)]
    plain.append(policy.predict_action_chunk(masked, noise))
    with accelerate_vla(policy, UniformConfig(steps=10), prefix=PrefixConfig(max_age=99)) as fast:
        policy.predict_action_chunk(first, noise)
        assert torch.equal(policy.predict_action_chunk(words, noise), plain[0])
        assert torch.equal(policy.predict_action_chunk(both, two), plain[1])
        assert torch.equal(policy.predict_action_chunk(masked, noise), plain[2])
        assert counts(fast) == (4, 0, 0)


def test_a_change_may_be_an_error() -> None:
    policy = small_vla("pi0")
    first, noise = batch_of(policy), noise_of(policy)
    others = {
        r"images, state differ .* it is 1 queries old, prefix\.max_age=1": batch_of(policy, seed=2),
        "lang_tokens differ": {**first, "observation.language.tokens": torch.full((1, 5), 7)},
    }
    for words, other in others.items():
        config = PrefixConfig(max_age=1, on_change="refuse")
        fast = accelerate_vla(policy, prefix=config)
        policy.predict_action_chunk(first, noise)
        if "old" in words:
            policy.predict_action_chunk(batch_of(policy, seed=1), noise)
        with pytest.raises(RuntimeError, match=words):
            policy.predict_action_chunk(other, noise)
        assert not fast.enabled
    with pytest.raises(ValueError, match=r"prefix\.max_age must be at least 0, got -1"):
        PrefixConfig(max_age=-1)
    with pytest.raises(
        ValueError, match=r"prefix\.on_change must be one of renew, refuse, got 'x'"
    ):
        PrefixConfig(on_change="x")


@pytest.mark.parametrize("inference", [False, True])
def test_keys_that_the_model_changes_are_not_used_again(inference: bool) -> None:
    policy = small_vla("walked")
    expert: Any = policy.model.paligemma_with_expert.gemma_expert.model.layers[0].input_layernorm
    kept: list[Any] = []
    joint = type(policy.model.paligemma_with_expert)

    def spoil(*_: Any) -> None:
        kept[0][1][0].mul_(2)

    handle = expert.register_forward_hook(spoil)
    plain_forward = joint.forward

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = plain_forward(self, *args, **kwargs)
        if kwargs["inputs_embeds"][1] is None:
            kept[:] = [out[1]]
        return out

    joint.forward = noted  # type: ignore[method-assign]
    try:
        accelerate_vla(policy, prefix=PrefixConfig())
        with (
            torch.inference_mode(inference),
            pytest.raises(RuntimeError, match="SmallCore changes the keys and values"),
        ):
            policy.predict_action_chunk(batch_of(policy), noise_of(policy))
    finally:
        joint.forward = plain_forward  # type: ignore[method-assign]
        handle.remove()


def test_without_the_option_every_query_makes_its_prefix() -> None:
    policy = small_vla()
    with accelerate_vla(policy) as fast:
        policy.predict_action_chunk(batch_of(policy), noise_of(policy))
        policy.predict_action_chunk(batch_of(policy), noise_of(policy))
        assert counts(fast) == (2, 0, 0)
