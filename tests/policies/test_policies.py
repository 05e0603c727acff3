"""The policy against torch's layers, diffusers' schedulers and the reference's outputs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from policies import (
    CheckpointError,
    DiffusionPolicy,
    SamplerConfig,
    UnsupportedPolicy,
    from_reference,
    load_policy,
    sampler_table,
    save_policy,
)
from policies.data.normalizer import Normalizer
from tests.helpers.places import FIXTURES, PROJECT
from tests.helpers.stock import ACT, OBS, TO, VARIANTS, live_policy


def observations(n: int, seed: int = 3) -> torch.Tensor:
    return torch.randn((n, TO, OBS), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("task", ["kitchen_lowdim_transformer", "lift_lowdim_transformer"])
def test_reference_checkpoints_give_the_reference_actions(task: str) -> None:
    expected = np.load(FIXTURES / task / "expected.npz")
    policy = load_policy(FIXTURES / task / "latest.ckpt")
    generator = torch.Generator().manual_seed(int(expected["seed"]))
    actions = policy.act(torch.from_numpy(expected["obs"]).float(), generator)
    np.testing.assert_allclose(actions.numpy(), expected["action"], atol=1e-5)
    timestep = torch.full((len(expected["model_in"]),), int(expected["model_t"]))
    with torch.no_grad():
        out = policy.model(
            torch.from_numpy(expected["model_in"]),
            timestep,
            torch.from_numpy(expected["model_cond"]),
        )
    np.testing.assert_allclose(out.numpy(), expected["model_out"], atol=1e-5)


def test_predict_action_is_the_reference_call() -> None:
    expected = np.load(FIXTURES / "kitchen_lowdim_transformer" / "expected.npz")
    policy = load_policy(FIXTURES / "kitchen_lowdim_transformer" / "latest.ckpt")
    torch.manual_seed(int(expected["seed"]))
    result = policy.predict_action({"obs": torch.from_numpy(expected["obs"]).float()})
    np.testing.assert_allclose(result["action"].numpy(), expected["action"], atol=1e-5)
    np.testing.assert_allclose(result["action_pred"].numpy(), expected["action_pred"], atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_equals_the_stock_network(variant: str) -> None:
    live = live_policy(variant)
    policy = from_reference(live)
    obs = observations(3)
    expected = live.trajectory(obs, torch.Generator().manual_seed(7))
    ours = policy.sample(obs, torch.Generator().manual_seed(7))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    actions = policy.act(obs, torch.Generator().manual_seed(7))
    assert actions.shape == (3, 4, ACT)
    first = 0 if live.pred_action_steps_only else TO - 1
    pred = live.normalizer.unnormalize("action", expected[..., :ACT])
    torch.testing.assert_close(actions, pred[:, first : first + 4], atol=1e-4, rtol=0)


def test_in_painting_returns_the_observations_it_was_given() -> None:
    policy = from_reference(live_policy("in-painting"))
    obs = observations(2)
    result = policy.predict_action({"obs": obs})
    torch.testing.assert_close(result["obs_pred"][:, :TO], obs, atol=1e-5, rtol=0)


def test_row_generators_do_not_depend_on_the_neighbours() -> None:
    policy = from_reference(live_policy())
    obs = observations(4)

    def act(rows: list[int]) -> torch.Tensor:
        return policy.act(obs[rows], [torch.Generator().manual_seed(row) for row in rows])

    together = act([0, 1, 2, 3])
    assert torch.equal(act([3, 1, 0, 2]), together[[3, 1, 0, 2]])
    torch.testing.assert_close(act([2]), together[[2]], atol=1e-4, rtol=0)


SETTINGS = {
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"],
    "prediction_type": ["epsilon", "sample", "v_prediction"],
    "timestep_spacing": ["leading", "linspace", "trailing"],
}
EXTRAS: list[dict[str, Any]] = [
    {},
    {"clip_sample": False},
    {"clip_sample_range": 0.5},
    {"trained_betas": np.linspace(0.01, 0.2, 50).tolist()},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
]
OWN = {
    "ddpm": [{"variance_type": v} for v in ("fixed_small", "fixed_small_log", "fixed_large")],
    "ddim": [
        {},
        {"set_alpha_to_one": False},
        {"steps_offset": 1},
        {"eta": 0.5},
        {"eta": 1.0, "use_clipped_model_output": True},
    ],
}
CASES = [
    (kind, steps, {**dict(zip(SETTINGS, values, strict=True)), **own, **extra})
    for kind, steps in (("ddpm", 50), ("ddpm", 7), ("ddim", 10), ("ddim", 16))
    for values in itertools.product(*SETTINGS.values())
    for own in OWN[kind]
    for extra in (EXTRAS if values[0] == "squaredcos_cap_v2" else EXTRAS[:1])
    if not (kind == "ddim" and values[0] == "sigmoid")
]


def test_the_table_equals_diffusers_for_every_setting() -> None:
    for kind, steps, settings in CASES:
        config = SamplerConfig(kind=kind, steps=steps, num_train_timesteps=50, **settings)
        step = {k: settings[k] for k in ("eta", "use_clipped_model_output") if k in settings}
        scheduler = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[kind](
            num_train_timesteps=50, **{k: v for k, v in settings.items() if k not in step}
        )
        scheduler.set_timesteps(steps)
        table = sampler_table(config)
        assert table.timesteps.tolist() == scheduler.timesteps.tolist(), settings
        ours, theirs = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
        x = torch.randn((2, 4, 3), generator=torch.Generator().manual_seed(1))
        for s, t in enumerate(scheduler.timesteps):
            out = torch.sin(3 * x + s)
            expected = scheduler.step(out, t, x, generator=theirs, **step).prev_sample
            noise = torch.randn(x.shape, generator=ours) if table.draws[s] else None
            got = table.step(s, x, out, noise)
            finite = expected.isfinite()  # at zero SNR and eta 1, diffusers takes the root of -1e-8
            torch.testing.assert_close(
                got[finite], expected[finite], atol=2e-5, rtol=2e-5, msg=f"{kind} {settings} {s}"
            )
            assert got.isfinite().all(), settings
            x = expected.nan_to_num().clamp(-50, 50)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "pndm"}, "sampler.kind must be one of ddpm, ddim, dpmpp, euler, rk4, got 'pndm'"),
        ({"steps": 0}, "sampler.steps must be from 1 to 100"),
        ({"steps": 101}, "got 101"),
        ({"variance_type": "learned"}, "sampler.variance_type must be one of"),
        ({"steps_offset": 5}, "largest timestep 104"),
        ({"rescale_betas_zero_snr": True}, "divide by zero"),
        ({"trained_betas": [0.1]}, "must hold num_train_timesteps = 100"),
        ({"eta": -1.0}, "sampler.eta must be from 0 to 1"),
    ],
)
def test_sampler_settings_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="sampler") as error:
        SamplerConfig(**settings)
    assert words in str(error.value)


def test_another_sampler_shares_the_weights() -> None:
    policy = from_reference(live_policy())
    twin = policy.with_sampler(policy.config.sampler.with_steps("ddim", 5))
    assert twin.n_inference_steps == 5
    assert policy.n_inference_steps == 10
    assert twin.model.head.weight.data_ptr() == policy.model.head.weight.data_ptr()
    assert twin.fingerprint() != policy.fingerprint()


def test_a_longer_chunk_begins_with_the_same_actions() -> None:
    policy = from_reference(live_policy()).eval()
    longest = policy.with_n_action_steps(policy.longest_chunk)
    assert longest.n_action_steps == policy.horizon - policy.n_obs_steps + 1
    obs = torch.randn(2, policy.n_obs_steps, policy.obs_dim)
    acted, longer = (p.act(obs, torch.Generator().manual_seed(3)) for p in (policy, longest))
    assert longer.shape[1] > acted.shape[1]
    assert torch.equal(longer[:, : acted.shape[1]], acted)
    with pytest.raises(ValueError, match="n_action_steps must be from 1 to"):
        policy.with_n_action_steps(policy.longest_chunk + 1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"scheduler": {"thresholding": True}}, "noise_scheduler.thresholding=True"),
        ({"magic": 3}, "policy.magic=3"),
    ],
)
def test_what_changes_actions_and_is_not_known_is_refused(
    override: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnsupportedPolicy, match=words):
        from_reference(live_policy(**override))


def test_another_live_object_is_refused_by_name() -> None:
    class IbcDfoLowdimPolicy:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(UnsupportedPolicy, match="IbcDfoLowdimPolicy is not supported"):
        from_reference(IbcDfoLowdimPolicy())


def test_action_steps_only_with_causal_attention_is_refused() -> None:
    config = from_reference(live_policy("action steps only")).config
    causal = replace(config.network, causal_attn=True)
    with pytest.raises(ValueError, match=r"pred_action_steps_only=true with causal_attn=true"):
        replace(config, network=causal)


def test_wrong_inputs_are_refused() -> None:
    policy = from_reference(live_policy())
    with pytest.raises(ValueError, match=r"obs must have shape \(B, 2, 5\), got \(2, 3, 5\)"):
        policy.act(torch.zeros(2, 3, 5), torch.Generator())
    with pytest.raises(ValueError, match=r"one generator per row \(2\), got 1"):
        policy.act(torch.zeros(2, 2, 5), [torch.Generator()])
    policy.train()
    with pytest.raises(RuntimeError, match="training mode"):
        policy.act(torch.zeros(2, 2, 5), torch.Generator())


@pytest.mark.parametrize("mode", ["limits", "gaussian"])
def test_normaliser_fits_and_inverts(mode: str) -> None:
    data = torch.randn(200, 4) * torch.tensor([5.0, 1.0, 0.1, 0.0]) + 2
    normalizer = Normalizer({"obs": 4})
    normalizer.fit("obs", data, mode)
    scaled = normalizer.normalize("obs", data)
    torch.testing.assert_close(normalizer.unnormalize("obs", scaled), data, atol=1e-4, rtol=0)
    if mode == "limits":
        assert scaled[:, :3].amax().item() == pytest.approx(1, abs=1e-4)
        assert scaled[:, :3].amin().item() == pytest.approx(-1, abs=1e-4)
    else:
        torch.testing.assert_close(scaled[:, :3].std(0), torch.ones(3), atol=1e-3, rtol=0)
    assert scaled[:, 3].abs().max().item() < 1e-5  # a still dimension is centred, not scaled
    with pytest.raises(ValueError, match=r"normalizer.mode must be one of limits, gaussian"):
        normalizer.fit("obs", data, "magic")


def test_weights_that_are_loaded_are_not_drawn_first() -> None:
    before = torch.get_rng_state()
    policy = load_policy(PROJECT / "checkpoints/kitchen").with_sampler("ddim", 5)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = DiffusionPolicy(policy.config)
    assert not torch.equal(torch.get_rng_state(), before)
    drawn.load_state_dict(policy.state_dict())
    assert drawn.fingerprint() == policy.fingerprint()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    policy = load_policy(PROJECT / "checkpoints/kitchen")
    with torch.no_grad():
        policy.model.head.weight[1, 2] = value
    save_policy(policy, tmp_path, dtype)
    with pytest.raises(CheckpointError, match=r"model\.head\.weight holds NaN or infinite values"):
        load_policy(tmp_path)
