"""LeRobot's multi_task_dit: what LeRobot 0.6.1 computed, and what is refused, by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accel import UniformConfig, accelerated
from policies import DiffusionPolicy, SamplerConfig, load_policy, save_policy
from tests.helpers.lerobot_folder import (
    CONFIG,
    WEIGHTS,
    Arrays,
    edit_json,
    edit_tensors,
    expected,
    write,
)

NAME, ATOL = "v061_dit_flow", 1e-4
RECORDED = expected(NAME)
CALLS = {"euler": 10, "rk4": 40}
BLOCK = "noise_predictor.transformer_blocks.0"
BIAS = f"{BLOCK}.mlp.0.bias"
WIDTH = f"{BLOCK}.adaLN_modulation.1.weight"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> DiffusionPolicy:
    return load_policy(write(NAME, tmp_path_factory.mktemp("dit") / NAME))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(NAME, tmp_path / NAME)


def recorded(name: str) -> Tensor:
    return torch.from_numpy(RECORDED[name])


def condition() -> Tensor:
    return recorded("conditioning_vec").unflatten(1, (2, -1))


def noise() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(int(RECORDED["seed"]) + row) for row in range(2)]


def close(found: Tensor, name: str) -> None:
    torch.testing.assert_close(found, recorded(name), atol=ATOL, rtol=0)


def observation(policy: DiffusionPolicy) -> dict[str, Tensor]:
    """The state as it came, and of the conditioning vector what encoders made of the rest."""
    ends = np.cumsum([spec.shape[0] for spec in policy.obs_spec.values()])
    parts = np.split(condition().numpy(), ends[:-1], axis=-1)
    told = {n: torch.from_numpy(p) for n, p in zip(policy.obs_spec, parts, strict=True)}
    return {**told, "state": recorded("observation.state")}


def test_one_call_of_the_network(policy: DiffusionPolicy) -> None:
    with torch.no_grad():
        found = policy.model(recorded("predictor_x"), recorded("predictor_t"), condition())
    close(found, "predictor_out")


@pytest.mark.parametrize(("kind", "ending"), [("euler", ""), ("rk4", "_rk4")])
def test_a_query(kind: str, ending: str, policy: DiffusionPolicy) -> None:
    """From the conditioning vector, in both engines."""
    chosen = policy.with_sampler(kind)
    assert chosen.n_inference_steps == CALLS[kind]
    close(chosen.denoised(condition(), noise()), f"action_normalised{ending}")
    for engine in ("reference", "fused"):
        with accelerated(policy, sampler=kind, engine=engine) as fast:
            found = fast.denoise(condition(), noise())
        if engine == "reference":
            assert torch.equal(found, chosen.denoise(condition(), noise()))
        found = chosen.normalizer.normalize("action", found)
        raw = chosen.normalizer.normalize("action", recorded(f"action{ending}"))
        torch.testing.assert_close(found, raw, atol=ATOL, rtol=0)


def test_each_step(policy: DiffusionPolicy) -> None:
    entered: list[Tensor] = []
    said: list[Tensor] = []

    def look(module: Any, args: Any, out: Tensor) -> None:
        entered.append(args[0].clone())
        said.append(out)

    hook = policy.model.register_forward_hook(look)
    try:
        last = policy.denoised(condition(), noise())
    finally:
        hook.remove()
    assert policy.table.timesteps.tolist() == RECORDED["time_grid"][:-1].tolist()
    close(torch.stack([*entered, last], 1), "trajectory")
    close(torch.stack(said, 1), "velocity")


def test_what_it_sees(policy: DiffusionPolicy) -> None:
    shapes = {name: spec.shape for name, spec in policy.obs_spec.items()}
    widths = {"state": (6,), "features.wrist": (32,), "features.front": (32,), "text": (64,)}
    assert list(shapes.items()) == list(widths.items())
    torch.testing.assert_close(policy.encode(observation(policy)), condition(), atol=1e-6, rtol=0)
    state = observation(policy).pop("state")
    theirs = {**observation(policy), "observation.state": state}
    del theirs["state"]
    assert torch.equal(policy.act(theirs, noise()), policy.act(observation(policy), noise()))
    with pytest.raises(ValueError, match="text of 64 numbers is missing"):
        policy.act({k: v for k, v in observation(policy).items() if k != "text"}, noise())


def test_our_own_folder_gives_the_same_actions(policy: DiffusionPolicy, tmp_path: Path) -> None:
    chosen = policy.with_sampler("rk4", 3)
    save_policy(chosen, tmp_path / "policy", torch.float32)
    again = load_policy(tmp_path / "policy")
    assert (again.config, again.fingerprint()) == (chosen.config, chosen.fingerprint())
    assert torch.equal(
        again.act(observation(policy), noise()), chosen.act(observation(policy), noise())
    )


def test_it_is_made_cheaper(policy: DiffusionPolicy) -> None:
    with accelerated(policy, UniformConfig(steps=5)) as fast:
        cached = fast.act(observation(policy), noise())
        assert np.sum(fast.stats()["computed"]) == 5 * 6
    away = (cached - policy.act(observation(policy), noise())).abs().max()
    assert 0 < float(away) < 10


def test_the_encoders_weights_are_left_and_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_tensors(folder, WEIGHTS, lambda t: t.update(three("observation_encoder.more")))
    with caplog.at_level(logging.INFO):
        load_policy(folder)
    assert "78 weights of encoders (observation_encoder.*) are not read" in caplog.text


def three(name: str) -> Arrays:
    return {name: np.zeros(3, np.float32)}


def set_to(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(values)


DIFFUSION: dict[str, Any] = {"objective": "diffusion", "noise_scheduler_type": "DDIM"}


def test_of_the_diffusion_objective(folder: Path) -> None:
    edit_json(folder, CONFIG, set_to(**DIFFUSION, num_inference_steps=4))
    found = load_policy(folder)
    assert found.config.sampler == SamplerConfig("ddim", 4)
    assert found.act(observation(found), noise()).isfinite().all()
    with pytest.raises(ValueError, match="sampler=euler is of policies that predict a velocity"):
        found.with_sampler("euler")


def test_other_positions(folder: Path) -> None:
    """Without rotary ones it has torch's attention; learnt ones are added to the tokens."""
    place = np.random.default_rng(0).normal(size=(1, 16, 64)).astype(np.float32)

    def stock(tensors: Arrays) -> None:
        for key in [k for k in tensors if ".attn." in k]:
            named = key.replace(".attn.qkv_proj.", ".multihead_attn.in_proj_")
            tensors[named.replace(".attn.", ".multihead_attn.")] = tensors.pop(key)
        tensors["noise_predictor.pos_embedding"] = place

    edit_json(folder, CONFIG, set_to(use_rope=False, use_positional_encoding=True))
    with pytest.raises(ValueError, match="pos_embedding is missing"):
        load_policy(folder)
    edit_tensors(folder, WEIGHTS, stock)
    found = load_policy(folder)
    assert torch.equal(found.model.pos_embedding, torch.from_numpy(place))
    assert not torch.allclose(found.denoise(condition(), noise()), recorded("action"), atol=0.1)


CONFIGS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (set_to(objective="score"), "objective must be one of diffusion, flow_matching, got 'score'"),
    (set_to(integration_method="heun"), "integration_method must be one of euler, rk4"),
    (set_to(num_integration_steps=0), "num_integration_steps must be a whole number from 1"),
    (set_to(sigma_min=2.0), "sampler.sigma_min must be at least 0 and below 1"),
    (set_to(num_heads=5), "network.n_emb must be a multiple of 10"),
    (set_to(hidden_dim=33), "columns, of which 64 are of time and 2 times 6 [+] 33 of state"),
    (set_to(n_obs_steps=3), "are left for 3 steps of 2 cameras"),
    (set_to(use_peft=True), "use_peft=true is not supported"),
    (set_to(guidance=1.0), "guidance=1.0 is not a setting this project knows"),
    (lambda c: c.pop("use_rope"), "use_rope is missing"),
    (lambda c: c["input_features"].pop("observation.state"), "must have observation.state"),
    (set_to(num_layers=2), "transformer_blocks.2.* is unexpected"),
    (set_to(num_layers=4), "transformer_blocks.3.* is missing"),
]


@pytest.mark.parametrize(("change", "words"), CONFIGS, ids=[words for _, words in CONFIGS])
def test_a_config_is_refused(change: Any, words: str, folder: Path) -> None:
    edit_json(folder, CONFIG, change)
    with pytest.raises(ValueError, match=words.replace(".*", r"\..*")) as error:
        load_policy(folder)
    assert "\n" not in str(error.value)


TENSORS: list[tuple[Callable[[Arrays], Any], str]] = [
    (lambda t: t.pop(f"{BLOCK}.mlp.0.bias"), rf"{BLOCK}\.mlp\.0\.bias is missing"),
    (lambda t: t.pop(WIDTH), r"adaLN_modulation\.1\.weight is missing"),
    (lambda t: t.update(three("noise_predictor.extra")), r"extra is unexpected"),
    (lambda t: t.update(three(BIAS)), r"mlp\.0\.bias must have shape \[256\]"),
    (lambda t: t.update({WIDTH: t[WIDTH][:, :-1]}), "has 331 columns"),
    (
        lambda t: t.update({f"{BLOCK}.mlp.0.bias": np.zeros(256, np.int64)}),
        "must be floating-point",
    ),
    (lambda t: t[WIDTH].fill(np.nan), "holds NaN or infinite values"),
]


@pytest.mark.parametrize(("change", "words"), TENSORS, ids=[words for _, words in TENSORS])
def test_weights_are_refused(change: Any, words: str, folder: Path) -> None:
    edit_tensors(folder, WEIGHTS, change)
    with pytest.raises(ValueError, match=words) as error:
        load_policy(folder)
    assert "\n" not in str(error.value)


def test_a_tokenizer_is_of_this_type_alone(tmp_path: Path) -> None:
    """A UNet's pipeline with such a step is refused as before."""
    unet = write("v044_state", tmp_path / "unet")
    step = {"registry_name": "tokenizer_processor", "config": {}}
    edit_json(unet, "policy_preprocessor.json", lambda c: c["steps"].insert(0, step))
    with pytest.raises(ValueError, match="step 0, tokenizer_processor, is not supported"):
        load_policy(unet)
