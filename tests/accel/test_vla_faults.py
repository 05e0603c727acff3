"""What goes wrong on a live VLA policy is said by name, and leaves it as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from accel import UniformConfig
from accel.vla import PrefixConfig, accelerate_vla
from tests.accel.test_vla import same, state_of
from tests.helpers.vla_models import KINDS, SmallVla, batch_of, noise_of, small_vla


def layers_of(policy: SmallVla) -> Any:
    joint = getattr(policy.model, policy.model.joint_name)
    return (
        joint.lm_expert.layers if hasattr(joint, "lm_expert") else joint.gemma_expert.model.layers
    )


def another_mlp(policy: SmallVla) -> None:
    layer = layers_of(policy)[2]
    bare = layer.mlp.down_proj  # called instead of the whole
    layer.mlp = torch.nn.Sequential(layer.mlp.up_proj, bare)


def another_attention(policy: SmallVla) -> None:
    layer = layers_of(policy)[1]
    if policy.model.kind in ("pi0", "pi05"):
        real = layer.self_attn
        layer.self_attn = type(real)(policy.config.expert, policy.config)
        layer.self_attn.load_state_dict(real.state_dict())
    else:
        out = layer.self_attn.o_proj
        layer.self_attn.o_proj = torch.nn.Linear(out.in_features, out.out_features, bias=False)


BYPASSES: dict[str, tuple[Callable[[SmallVla], None], str]] = {
    "mlp": (another_mlp, r"layers\.2\.ff did not run in step 0: the model goes around"),
    "attention": (another_attention, r"layers\.1\.sa did not run in step 0"),
}


@pytest.mark.parametrize("what", BYPASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_site_that_is_bypassed_is_named(
    kind: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = small_vla(kind)
    change, words = BYPASSES[what]
    fast = accelerate_vla(policy, UniformConfig(steps=3))
    change(policy)
    with pytest.raises(RuntimeError, match=words):
        policy.predict_action_chunk(batch_of(policy), noise_of(policy))
    assert not fast.enabled
    assert "the acceleration was taken off" in caplog.text
    plain = policy.predict_action_chunk(batch_of(policy), noise_of(policy))
    with accelerate_vla(policy):  # what is there now can be accelerated
        assert torch.equal(policy.predict_action_chunk(batch_of(policy), noise_of(policy)), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_any_step_leaves_the_policy_as_it_was(kind: str) -> None:
    policy = small_vla(kind)
    batch, noise, before = batch_of(policy), noise_of(policy), state_of(policy)
    plain = policy.predict_action_chunk(batch, noise)
    for step in (0, 4):
        fast = accelerate_vla(policy, UniformConfig(steps=3), prefix=PrefixConfig())
        handle = layers_of(policy)[3].post_attention_layernorm.register_forward_hook(failing(step))
        with pytest.raises(ZeroDivisionError):
            policy.predict_action_chunk(batch, noise)
        handle.remove()
        assert not fast.enabled
        assert same(before, state_of(policy))
        assert torch.equal(policy.predict_action_chunk(batch, noise), plain)
        with fast:
            assert not torch.equal(policy.predict_action_chunk(batch, noise), plain)
        assert same(before, state_of(policy))


def failing(step: int) -> Callable[..., None]:
    calls = [0]

    def fail(*_: Any) -> None:
        calls[0] += 1
        if calls[0] > step:
            raise ZeroDivisionError

    return fail


def test_another_number_of_steps_is_refused() -> None:
    policy = small_vla()
    batch, noise = batch_of(policy), noise_of(policy)
    for steps, words in ((12, "more than 10 denoising steps"), (7, "ran 7 denoising steps")):
        accelerate_vla(policy, UniformConfig(steps=3))
        policy.config.num_steps = steps
        with pytest.raises(RuntimeError, match=words):
            policy.predict_action_chunk(batch, noise)
    with accelerate_vla(policy, UniformConfig(steps=3), n_steps=7) as fast:
        policy.predict_action_chunk(batch, noise)
    assert fast.plan.n_steps == 7
    policy.config.num_steps = None
    with pytest.raises(ValueError, match=r"n_steps is not known: .*num_steps or num_inference_ste"):
        accelerate_vla(policy)


def test_a_denoiser_that_is_called_alone_or_never_is_refused() -> None:
    policy = small_vla("pi0")
    with accelerate_vla(policy), pytest.raises(RuntimeError, match="outside of sample_actions"):
        policy.model.denoise_step(None, None, None, None)
    real = type(policy.model).denoise_step
    accelerate_vla(policy, UniformConfig(steps=3))
    policy.model.denoise_step = lambda **kwargs: real(policy.model, **kwargs)
    with pytest.raises(RuntimeError, match="ran 0 denoising steps through denoise_step"):
        policy.predict_action_chunk(batch_of(policy), noise_of(policy))
    with pytest.raises(RuntimeError, match=r"denoise_step has been replaced, by torch\.compile"):
        accelerate_vla(policy)


def test_twice_compiled_and_real_time_are_refused() -> None:
    policy = small_vla()
    with accelerate_vla(policy) as fast:
        with pytest.raises(RuntimeError, match="sample_actions has been replaced"):
            accelerate_vla(policy)
        with pytest.raises(RuntimeError, match="sample_actions has been replaced"):
            fast.enable()
    fast.disable()
    policy.model.sample_actions = partial(policy.model.sample_actions)
    with pytest.raises(RuntimeError, match="compile_model=False"):
        accelerate_vla(policy)
    del policy.model.sample_actions
    policy.model._rtc_enabled = lambda: True
    accelerate_vla(policy, UniformConfig(steps=3))
    with pytest.raises(RuntimeError, match="rtc_config is enabled"):
        policy.predict_action_chunk(batch_of(policy))
    with accelerate_vla(policy) as fast:
        policy.predict_action_chunk(batch_of(policy))
    assert fast.stats()["queries"] == 1


def test_a_tool_that_comes_later_stays(caplog: pytest.LogCaptureFixture) -> None:
    policy = small_vla()
    plain = policy.predict_action_chunk(batch_of(policy), noise_of(policy))
    mlp: Any = layers_of(policy)[0].mlp
    with caplog.at_level(logging.WARNING), accelerate_vla(policy, UniformConfig(steps=3)):
        ours = mlp.forward
        mlp.forward = lambda x: ours(x)
        policy.predict_action_chunk(batch_of(policy), noise_of(policy))
    assert "Mlp.forward was replaced by another tool" in caplog.text
    assert torch.equal(policy.predict_action_chunk(batch_of(policy), noise_of(policy)), plain)


def test_a_query_that_is_not_one_row_is_refused() -> None:
    from accel.vla import calibrate_vla

    policy = small_vla()
    batches = [batch_of(policy, 8)]
    batches[0]["observation.state"] = batches[0]["observation.state"][:3]
    with pytest.raises(ValueError, match=r"one number of rows, got \[3, 8\]"):
        calibrate_vla(policy, batches)
    with pytest.raises(ValueError, match="run must return actions"):
        calibrate_vla(policy, [batch_of(policy, 8)], run=lambda p, b, n: torch.zeros(2, 3))
    policy.model.config = SimpleNamespace(num_steps=10)
    with pytest.raises(ValueError, match="must have chunk_size or action_horizon"):
        calibrate_vla(policy, [batch_of(policy, 8)], progress=False)
