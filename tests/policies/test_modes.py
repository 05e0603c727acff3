"""Normalising by statistics: LeRobot's formulas, in float32, by hand."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from policies import DiffusionPolicy, export_reference, from_reference, load_policy, save_policy
from policies.clipping import cuts
from policies.data.modes import MODES
from policies.data.normalizer import Normalizer
from tests.helpers.stock_unet import ACT, OBS, TO, live_unet

F = np.float32
STATISTICS = {  # the last number never moved
    "min": [-2.0, 0.1, 0.7],
    "max": [6.0, 0.3, 0.7],
    "mean": [1.0, 0.2, 0.7],
    "std": [3.0, 0.05, 0.0],
    "q01": [-1.5, 0.12, 0.7],
    "q99": [5.5, 0.28, 0.7],
    "q10": [-1.0, 0.15, 0.7],
    "q90": [5.0, 0.25, 0.7],
}
X = [[-2.0, 0.3, 0.7], [8.0, 0.17, 0.7000001]]


def normalizer(mode: str) -> Normalizer:
    made = Normalizer({"action": 3}, {"action": mode})
    for name in MODES[mode].statistics:
        made.params_dict["action"][name].copy_(torch.tensor(STATISTICS[name]))
    return made


def by_hand(mode: str, x: np.ndarray) -> np.ndarray:
    s = {name: np.array(value, F) for name, value in STATISTICS.items()}
    low, high = {
        **{"min_max": ("min", "max"), "min_max_eps": ("min", "max")},
        **{"quantiles": ("q01", "q99"), "quantile10": ("q10", "q90")},
    }.get(mode, ("min", "max"))
    wide = s[high] - s[low]
    if mode == "mean_std":
        return (x - s["mean"]) / (s["std"] + F(1e-8))
    if mode == "min_max_eps":
        return (x - s["min"]) / (wide + F(1e-8)) * F(2) - F(1)
    return F(2) * (x - s[low]) / np.where(wide == 0, F(1e-8), wide) - F(1)


@pytest.mark.parametrize("mode", [name for name in MODES if name != "identity"])
def test_normalising_is_the_formula_in_float32(mode: str) -> None:
    x = np.array(X, F)
    found = normalizer(mode).normalize("action", torch.from_numpy(x)).numpy()
    assert np.array_equal(found, by_hand(mode, x))
    at_rest, beside = found[:, 2]
    assert at_rest == (0.0 if mode == "mean_std" else -1.0)  # an affine map would be off by 1e7
    assert 5 < beside < 25


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("identity", [0.5, -1.0, 0.25]),
        ("mean_std", [2.5, 0.15, 0.7]),
        ("min_max", [4.0, 0.1, 0.7]),
        ("min_max_eps", [4.0, 0.1, 0.7]),
        ("quantiles", [3.75, 0.12, 0.7]),
        ("quantile10", [3.5, 0.15, 0.7]),
    ],
)
def test_and_back(mode: str, expected: list[float]) -> None:
    found = normalizer(mode).unnormalize("action", torch.tensor([0.5, -1.0, 0.25]))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_images_are_normalised_per_channel() -> None:
    made = Normalizer({"image.top": (3, 1, 1)}, {"image.top": "mean_std"})
    params = made.params("image.top")
    params["mean"].copy_(torch.tensor([0.25, 0.5, 0.75])[:, None, None])
    params["std"].fill_(0.5)
    found = made.normalize("image.top", torch.ones(2, 4, 3, 6, 6))
    assert found.shape == (2, 4, 3, 6, 6)
    assert found[1, 3, :, 5, 0].tolist() == [1.5, 1.0, 0.5]
    again = Normalizer({"image.top": (3, 1, 1)}, {"image.top": "mean_std"})
    again.load_state_dict(made.state_dict())
    ones = torch.ones(3, 1, 1)
    assert torch.equal(again.normalize("image.top", ones), made.normalize("image.top", ones))


def moded(mode: str = "min_max", **sampler: object) -> DiffusionPolicy:
    plain = from_reference(live_unet())
    config = replace(plain.config, normalization={"obs": "mean_std", "action": mode})
    config.sampler = replace(config.sampler, **sampler)  # type: ignore[arg-type]
    policy = DiffusionPolicy(config).eval()
    state = plain.model.state_dict()
    policy.model.load_state_dict(state)
    generator = torch.Generator().manual_seed(1)
    for field in ("obs", "action"):
        for i, value in enumerate(policy.normalizer.params_dict[field].values()):
            value.copy_(torch.rand(value.shape, generator=generator) + 2 * i)
    return policy


def test_a_policy_keeps_its_modes_and_statistics_in_our_folder(tmp_path: Path) -> None:
    policy, obs = moded(), torch.randn(2, TO, OBS)
    save_policy(policy, tmp_path / "policy", torch.float32)
    again = load_policy(tmp_path / "policy")
    assert again.config == policy.config
    assert again.fingerprint() == policy.fingerprint()
    noise = [torch.Generator().manual_seed(i) for i in range(2)]
    actions = policy.act(obs, noise)
    assert torch.equal(actions, again.act(obs, [g.manual_seed(i) for i, g in enumerate(noise)]))
    twin = policy.with_n_action_steps(2)
    assert torch.equal(
        actions[:, :2], twin.act(obs, [g.manual_seed(i) for i, g in enumerate(noise)])
    )
    assert "normalizer.params_dict.action.min" in again.state_dict()
    assert "normalization" not in from_reference(live_unet()).config.settings()


def test_what_a_clip_cuts_of_a_mode(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    shares = {"mean_std": 0.317, "quantiles": 0.02, "quantile10": 0.2}
    for mode, share in shares.items():
        (cut,) = cuts(moded(mode).config, moded(mode).normalizer)
        assert cut.share == pytest.approx(share, abs=1e-3)
        assert not cuts(moded(mode, clip_sample=False).config, moded(mode).normalizer)
    for mode in ("min_max", "min_max_eps", "identity"):
        assert not cuts(moded(mode).config, moded(mode).normalizer)
    save_policy(moded("mean_std"), tmp_path / "policy", torch.float32)
    load_policy(tmp_path / "policy")
    said = next(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)
    assert "the action numbers are normalised by mean_std: about 32% of them" in said


def test_what_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"normalization\.action must be one of identity, .*'affine'"
    ):
        replace(moded().config, normalization={"action": "affine"})
    with pytest.raises(ValueError, match=r"normalization must be a mapping, got \['min_max'\]"):
        replace(moded().config, normalization=["min_max"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="control_hz must be a number above 0 or null, got -1"):
        replace(moded().config, control_hz=-1)
    with pytest.raises(ValueError, match="normalization must be of obs, action, got 'state'"):
        DiffusionPolicy(replace(moded().config, normalization={"state": "identity"}))
    with pytest.raises(ValueError, match=r"is an affine map, normalization\.obs is mean_std"):
        export_reference(moded(), "never.ckpt")
    with pytest.raises(ValueError, match="action is normalised by min_max"):
        moded().normalizer.fit("action", torch.randn(9, ACT))
