"""The objective against formulas and diffusers; schedules; initialisation; export."""

from __future__ import annotations

import math
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dill
import pytest
import torch
from diffusers import DDPMScheduler
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from envs import PushTTask, reference_runner
from policies import (
    DiffusionPolicy,
    NetworkConfig,
    PolicyConfig,
    SamplerConfig,
    TaskInfo,
    export_reference,
    from_reference,
    load_policy,
)
from policies.reference.reader import read_reference
from policies.training import (
    EMA,
    Batch,
    EMAConfig,
    diffusion_loss,
    init_weights,
    learning_rate,
    make_optimizer,
    trajectory_shape,
)
from tests.helpers.places import FIXTURES
from tests.helpers.stock import ACT, HORIZON, OBS, TO, VARIANTS, live_policy

PREDICTIONS = ("epsilon", "sample", "v_prediction")


def stock_loss(live: Any, batch: Batch, noise: Tensor, timesteps: Tensor, kind: str) -> Tensor:
    """The reference's compute_loss, from its description, on torch's layers and diffusers."""
    scheduler = DDPMScheduler(
        num_train_timesteps=20, beta_schedule="squaredcos_cap_v2", prediction_type=kind
    )
    params = live.normalizer.params_dict
    nobs = batch.obs * params["obs"]["scale"] + params["obs"]["offset"]
    nact = batch.action * params["action"]["scale"] + params["action"]["offset"]
    cond, hidden = None, None
    if live.model.obs_as_cond:
        cond, x0 = nobs[:, :TO], nact
        if live.pred_action_steps_only:
            x0 = nact[:, TO - 1 : TO - 1 + live.n_action_steps]
    else:
        x0 = torch.cat([nact, nobs], -1)
        hidden = torch.ones_like(x0)
        hidden[:, :TO, ACT:] = 0
    noisy = scheduler.add_noise(x0, noise, timesteps)
    if hidden is not None:
        noisy[hidden == 0] = x0[hidden == 0]
    target = {
        "epsilon": noise,
        "sample": x0,
        "v_prediction": scheduler.get_velocity(x0, noise, timesteps),
    }[kind]
    error = nn.functional.mse_loss(live.model(noisy, timesteps, cond), target, reduction="none")
    if hidden is not None:
        error = error * hidden
    return torch.stack([row.mean() for row in error]).mean()


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_equal_the_formulas(variant: str, kind: str) -> None:
    live = live_policy(variant, scheduler={"prediction_type": kind})
    policy = from_reference(live)
    generator = torch.Generator().manual_seed(5)
    batch = Batch(
        torch.randn((6, HORIZON, OBS), generator=generator) * 2,
        torch.randn((6, HORIZON, ACT), generator=generator) * 2,
    )
    noise = torch.randn(trajectory_shape(policy, 6), generator=generator)
    timesteps = torch.tensor([0, 3, 7, 12, 18, 19])
    for parameter in policy.model.parameters():
        parameter.grad = None
    loss = diffusion_loss(policy, batch, noise, timesteps)
    loss.backward()
    ours = {k: p.grad for k, p in policy.model.named_parameters()}
    theirs_model = {k: p for k, p in live.model.named_parameters() if p.numel()}
    for parameter in theirs_model.values():
        parameter.grad = None
    expected = stock_loss(live, batch, noise, timesteps, kind)
    grads = torch.autograd.grad(expected, list(theirs_model.values()))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert ours.keys() == theirs_model.keys()
    for name, grad in zip(theirs_model, grads, strict=True):
        torch.testing.assert_close(ours[name], grad, atol=1e-5, rtol=1e-4, msg=name)


def tiny(**sampler: Any) -> DiffusionPolicy:
    network = NetworkConfig(3, 3, 8, 2, cond_dim=5, n_layer=2, n_head=2, n_emb=16)
    config = PolicyConfig(
        network,
        obs_dim=5,
        action_dim=3,
        n_action_steps=4,
        sampler=SamplerConfig(**sampler),
        task=TaskInfo("kitchen_lowdim", True, 0.1),
    )
    return DiffusionPolicy(config)


def test_only_matrices_decay() -> None:
    model = tiny().model
    decay, rest = make_optimizer(model, 1e-3, 0.01, (0.9, 0.95)).param_groups
    expected = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            expected.add(f"{name}.weight")
        elif isinstance(module, nn.MultiheadAttention):
            expected |= {f"{name}.in_proj_weight"}
    ids = {id(p): k for k, p in model.named_parameters()}
    assert {ids[id(p)] for p in decay["params"]} == expected
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)
    others = {ids[id(p)] for p in rest["params"]}
    assert others == set(ids.values()) - expected
    assert {"pos_emb", "cond_pos_emb", "ln_f.weight", "head.bias"} <= others


def test_initial_weights() -> None:
    network = NetworkConfig(3, 3, 8, 2, cond_dim=5, n_layer=2, n_head=2, n_emb=64)
    model = DiffusionPolicy(PolicyConfig(network, 5, 3, 4)).model
    init_weights(model, torch.Generator().manual_seed(0))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" in name or "ln_f" in name:
            assert (p == 1).all(), name
        elif p.numel() > 1000:
            assert abs(float(p.detach().std()) - 0.02) < 0.001, name
            assert abs(float(p.detach().mean())) < 0.002, name
        else:
            assert 0.005 < float(p.detach().std()) < 0.04, name
    before = model.head.weight.clone()
    init_weights(model, torch.Generator().manual_seed(0))
    assert torch.equal(before, model.head.weight)


def test_the_moving_average() -> None:
    config = EMAConfig()
    decays = [config.decay(n) for n in range(4)]
    assert decays == pytest.approx([0, 0, 1 - 2**-0.75, 1 - 3**-0.75])
    assert config.decay(10**7) == 0.9999
    assert EMAConfig(update_after_step=5).decay(6) == 0.0
    assert EMAConfig(min_value=0.5).decay(2) == 0.5
    policy = tiny()
    ema = EMA(policy, config)
    expected = policy.model.pos_emb.detach().clone()
    for n in range(6):
        with torch.no_grad():
            policy.model.pos_emb.add_(n + 1.0)
        ema.update(policy.model, n)
        decay = config.decay(n)
        expected = decay * expected + (1 - decay) * policy.model.pos_emb.detach()
    torch.testing.assert_close(ema.policy.model.pos_emb.detach(), expected)
    with pytest.raises(ValueError, match=r"ema\.inv_gamma must be positive, got 0"):
        EMAConfig(inv_gamma=0)


def test_the_learning_rate() -> None:
    rates = [learning_rate(n, 110, 2.0, 10) for n in range(111)]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(1.0)
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0.0)
    assert rates[35] == pytest.approx(1 + math.cos(math.pi / 4))
    assert learning_rate(0, 10, 2.0, 0) == 2.0


@pytest.mark.parametrize("task", ["kitchen", "lift"])
def test_an_exported_checkpoint_has_the_references_layout(task: str, tmp_path: Path) -> None:
    fixture = FIXTURES / f"{task}_lowdim_transformer" / "latest.ckpt"
    policy, file = load_policy(fixture), tmp_path / "out.ckpt"
    export_reference(policy, file, reference_runner(asdict(policy.config.task)))
    ours, theirs = read_reference(file), read_reference(fixture)
    assert ours.state_dicts.keys() == theirs.state_dicts.keys()
    for name, state in theirs.state_dicts.items():
        assert {k: v.shape for k, v in ours.state_dicts[name].items()} == {
            k: v.shape for k, v in state.items()
        }
    ema = ours.state_dicts["ema_model"]
    assert all(torch.equal(ema[k], v) for k, v in theirs.state_dicts["ema_model"].items())
    assert ours.cfg["policy"] == theirs.cfg["policy"]
    assert ours.cfg["_target_"] == theirs.cfg["_target_"]
    runner = theirs.cfg["task"]["env_runner"]
    assert ours.cfg["task"]["env_runner"].keys() == runner.keys()
    again = load_policy(file)
    assert again.fingerprint() == policy.fingerprint()
    assert again.config == policy.config


RUNNER_OF_PUSHT = {  # what PushTKeypointsRunner of diffusion_policy takes, where it is set
    *("n_train", "n_train_vis", "train_start_seed", "n_test", "n_test_vis", "test_start_seed"),
    *("legacy_test", "max_steps", "n_obs_steps", "n_action_steps", "n_latency_steps", "fps"),
    *("keypoint_visible_rate", "agent_keypoints", "past_action", "n_envs", "_target_"),
}


def test_an_exported_checkpoint_of_pusht_names_its_keypoints_runner(tmp_path: Path) -> None:
    network = NetworkConfig(2, 2, 8, 2, cond_dim=20, n_layer=2, n_head=2, n_emb=16)
    info = TaskInfo(**PushTTask().info())
    config = PolicyConfig(network, obs_dim=20, action_dim=2, n_action_steps=4, task=info)
    export_reference(DiffusionPolicy(config), tmp_path / "a.ckpt", reference_runner(asdict(info)))
    runner = read_reference(tmp_path / "a.ckpt").cfg["task"]["env_runner"]
    assert set(runner) == RUNNER_OF_PUSHT
    assert runner["_target_"].endswith("env_runner.pusht_keypoints_runner.PushTKeypointsRunner")
    assert load_policy(tmp_path / "a.ckpt").config.task == TaskInfo("pusht_lowdim")


SAMPLERS: list[dict[str, Any]] = [
    {"kind": "ddim", "steps": 16},
    {"kind": "ddim", "steps": 10, "eta": 0.5, "steps_offset": 1, "set_alpha_to_one": False},
    {"kind": "ddpm", "steps": 7, "variance_type": "fixed_large", "prediction_type": "sample"},
    {"num_train_timesteps": 50, "steps": 50, "beta_schedule": "linear", "clip_sample_range": 2.0},
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_survives_the_export(sampler: dict[str, Any], tmp_path: Path) -> None:
    policy = tiny(**sampler)
    export_reference(policy, tmp_path / "a.ckpt")
    again = load_policy(tmp_path / "a.ckpt")
    unused = {"ddpm": {"set_alpha_to_one": True}, "ddim": {"variance_type": "fixed_small"}}
    neutral = unused[policy.config.sampler.kind]
    assert again.config == replace(policy.config, sampler=SamplerConfig(**{**sampler, **neutral}))
    assert torch.equal(again.model.head.weight, policy.model.head.weight)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_survives_the_export(variant: str, tmp_path: Path) -> None:
    live = live_policy(variant)
    policy = from_reference(live)
    export_reference(policy, tmp_path / "a.ckpt")
    written = read_reference(tmp_path / "a.ckpt").state_dicts
    network = {f"model.{k}": v.shape for k, v in live.model.state_dict().items()}
    for state in (written["model"], written["ema_model"]):
        assert {k: v.shape for k, v in state.items() if k.startswith("model.")} == network
    again = load_policy(tmp_path / "a.ckpt")
    obs = torch.randn((2, TO, OBS), generator=torch.Generator().manual_seed(0))
    ours, theirs = (p.act(obs, torch.Generator().manual_seed(1)) for p in (policy, again))
    assert torch.equal(ours, theirs)


def test_an_exported_checkpoint_opens_with_dill(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    export_reference(tiny(), file)
    payload = torch.load(file, pickle_module=dill, weights_only=False)
    assert isinstance(payload["cfg"], DictConfig)
    assert payload["cfg"].policy.model.n_emb == 16
    assert OmegaConf.to_container(payload["cfg"], throw_on_missing=True)
    assert dill.loads(payload["pickles"]["epoch"]) == pickle.loads(payload["pickles"]["epoch"]) == 0
    assert file.stat().st_size < 2 * sum(p.numel() * 4 for p in tiny().parameters())
