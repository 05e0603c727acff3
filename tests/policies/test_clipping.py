"""Where a sampler cuts what the normaliser asks a policy to predict."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies import (
    DiffusionPolicy,
    NetworkConfig,
    PolicyConfig,
    SamplerConfig,
    from_reference,
    load_policy,
    save_policy,
)
from policies.clipping import cuts
from policies.data.normalizer import Normalizer
from runners.cli import run
from tests.helpers.places import PROJECT
from tests.helpers.stock import live_policy
from tests.helpers.train_files import write_npz, write_robomimic

SMALL = [
    *("runner=train", "task=lift", "runner.data=lift.hdf5", "threads=1", "logger=none"),
    *("runner.n_steps=1", "runner.n_layer=1", "runner.n_head=2", "runner.n_emb=16"),
    *("runner.num_train_timesteps=5", "runner.val_ratio=0.3"),
]
GAUSSIAN = "runner.normalizer=gaussian"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])


def policy(mode: str, obs_as_cond: bool = True, **sampler: Any) -> DiffusionPolicy:
    """Actions of 2 numbers, observations of 3, fitted to normal data of another unit."""
    width = 2 if obs_as_cond else 5
    network = NetworkConfig(
        input_dim=width,
        output_dim=width,
        horizon=4,
        n_obs_steps=1,
        cond_dim=3 if obs_as_cond else 0,
        n_layer=1,
        n_head=1,
        n_emb=8,
        obs_as_cond=obs_as_cond,
    )
    made = DiffusionPolicy(PolicyConfig(network, 3, 2, 2, sampler=SamplerConfig(**sampler)))
    generator = torch.Generator().manual_seed(0)
    for field, dim in (("obs", 3), ("action", 2)):
        data = 7 + 40 * torch.randn((4000, dim), generator=generator)
        made.normalizer.fit(field, data, mode)
    return made.eval()


def warned(made: DiffusionPolicy, caplog: pytest.LogCaptureFixture) -> list[str]:
    save_policy(made, "policy")
    caplog.clear()
    load_policy("policy")
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_gaussian_policy_that_clips_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    (said,) = warned(policy("gaussian"), caplog)
    assert said.startswith("policy: clip_sample cuts predictions at 1, the action numbers")
    assert "about 32% of them" in said
    (said,) = warned(policy("gaussian", clip_sample_range=2.0), caplog)
    assert "about 5% of them" in said
    for made in (
        policy("limits"),
        policy("limits", obs_as_cond=False),
        policy("gaussian", clip_sample=False),
        policy("gaussian", clip_sample_range=6.0),
    ):
        assert warned(made, caplog) == []


def test_predicted_observations_are_cut_too(caplog: pytest.LogCaptureFixture) -> None:
    said = warned(policy("gaussian", obs_as_cond=False), caplog)
    assert [line.split(" numbers")[0].split()[-1] for line in said] == ["action", "obs"]
    mixed = policy("limits", obs_as_cond=False)
    mixed.normalizer.fit("obs", torch.randn(100, 3), "gaussian")
    (line,) = warned(mixed, caplog)
    assert "the obs numbers" in line
    conditioned = policy("limits")  # observations are not predicted
    conditioned.normalizer.fit("obs", torch.randn(100, 3), "gaussian")
    assert warned(conditioned, caplog) == []


def test_a_live_policy_is_warned_of_too(caplog: pytest.LogCaptureFixture) -> None:
    live = live_policy()
    from_reference(live)
    assert caplog.text == ""
    live.normalizer.fit("action", torch.randn(50, live.action_dim), "gaussian")
    from_reference(live)
    assert "DiffusionTransformerLowdimPolicy: clip_sample cuts predictions at 1" in caplog.text


def test_the_share_is_that_of_the_data() -> None:
    """Only the numbers that reach beyond count; the others are cut nowhere."""
    made = policy("limits")
    data = torch.stack([torch.linspace(-1, 1, 999), 5 * torch.randn(999)], 1)
    with torch.no_grad():
        made.normalizer.fit("action", data)
        half = Normalizer({"action": 2, "obs": 3})
        half.fit("action", data, "gaussian")
        for name in ("scale", "offset"):
            made.normalizer.params_dict["action"][name][1] = half.params_dict["action"][name][1]
    (cut,) = cuts(made.config, made.normalizer)
    normalised = made.normalizer.normalize("action", data).abs()
    assert cut.share == pytest.approx(float((normalised > 1.001).float().mean()), abs=0.02)
    assert cut.reach == pytest.approx(float(normalised.max()))


def said_by(capfd: pytest.CaptureFixture[str]) -> str:
    """Since the last call; runs configure logging, so that pytest's own does not hear them."""
    captured = capfd.readouterr()
    return captured.out + captured.err


def trained(*overrides: str) -> DiffusionPolicy:
    before = set(Path("multirun/main").glob("*"))
    assert run([*SMALL, *overrides]) == 0
    (folder,) = set(Path("multirun/main").glob("*")) - before
    return load_policy(folder / "policy")


def lift_file() -> None:
    """Actions with a tail, as those of demonstrations."""
    path = write_robomimic(Path("lift.hdf5"))
    import h5py

    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            values = demo["actions"][()]
            values[:, :3] *= np.abs(values[:, :3])
            values[0, 0] = 6
            demo["actions"][...] = values


@pytest.mark.parametrize("as_cond", [True, False])
def test_a_trainings_clip_follows_its_normaliser(
    as_cond: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    lift_file()
    flag = f"runner.obs_as_cond={str(as_cond).lower()}"
    sampler = trained(flag).config.sampler
    assert (sampler.clip_sample, sampler.clip_sample_range) == (True, 1.0)
    made = trained(flag, GAUSSIAN)
    sampler, params = made.config.sampler, made.normalizer.params_dict
    assert sampler.clip_sample
    fields = ["action"] if as_cond else ["action", "obs"]
    reach = max(
        float(made.normalizer.normalize(f, params[f]["input_stats"][end]).abs().max())
        for f in fields
        for end in ("min", "max")
    )
    assert reach <= sampler.clip_sample_range <= reach + 0.0101
    assert reach > 1.5
    assert " cuts " not in said_by(capfd)


def test_the_clip_can_be_set(capfd: pytest.CaptureFixture[str]) -> None:
    lift_file()
    off = trained(GAUSSIAN, "runner.clip=false").config.sampler
    assert (off.clip_sample, off.clip_sample_range) == (False, 1.0)
    assert " cuts " not in said_by(capfd)
    at_two = trained(GAUSSIAN, "runner.clip=2").config.sampler
    assert (at_two.clip_sample, at_two.clip_sample_range) == (True, 2.0)
    said = said_by(capfd)
    assert "clip 2 cuts " in said
    assert "of the action numbers in " in said
    assert trained("runner.clip=0.5").config.sampler.clip_sample_range == 0.5
    assert "clip 0.5 cuts " in said_by(capfd)


def test_a_clip_of_its_own_default_is_the_same_training() -> None:
    lift_file()
    assert run(SMALL) == 0
    assert run([*SMALL, "runner.clip=1.0"]) == 0
    assert run([*SMALL, "runner.clip=1"]) == 0
    assert len(list(Path("multirun/main").iterdir())) == 1


@pytest.mark.parametrize("clip", ["0", "-1", "true", "x", "[1]", "nan", "inf"])
def test_a_clip_that_is_none_is_refused(clip: str, capfd: pytest.CaptureFixture[str]) -> None:
    lift_file()
    assert run([*SMALL, f"runner.clip={clip}"]) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: runner.clip must be null, false or a positive number, got ")


def test_a_training_that_goes_on_follows_the_normaliser_it_gets(
    capfd: pytest.CaptureFixture[str],
) -> None:
    lift_file()
    start = trained(GAUSSIAN)
    save_policy(start, "start", torch.float32)
    sampler = trained("runner.init=start", "runner.seed=1").config.sampler
    assert sampler.clip_sample_range == start.config.sampler.clip_sample_range > 1
    save_policy(trained("runner.seed=2"), "limits", torch.float32)
    write_robomimic(Path("lift.hdf5"), lengths=[20, 20])
    said_by(capfd)
    wider = trained("runner.init=limits", "runner.seed=3").config.sampler
    assert wider.clip_sample_range == 1.0
    assert "clip 1 cuts " in said_by(capfd)  # its data reach further than those that were fitted


NOT_NORMALISABLE = {
    "huge": (np.array([[3e38], [-3e38], [0], [0]]), []),
    "huge, gaussian": (np.array([[3e38], [-3e38], [3e38], [-3e38]]), [GAUSSIAN]),
    "a mean that overflows": (np.full((4, 1), 3e38), []),
    "still, with no range": (np.zeros((4, 1)), ["runner.action_range_eps=0"]),
    "still, gaussian": (np.zeros((4, 1)), ["runner.action_range_eps=0", GAUSSIAN]),
}


@pytest.mark.parametrize("case", NOT_NORMALISABLE)
def test_statistics_that_are_not_finite_are_refused(
    case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    column, more = NOT_NORMALISABLE[case]
    action = np.concatenate([np.linspace(0, 1, 36).reshape(4, 9)[:, :8], column], 1)
    write_npz(Path("k.npz"), lengths=[4], obs_dim=60, action=action, episode_ends=[4])
    options = ["task=kitchen", "runner.data=k.npz", "runner.horizon=4", "runner.n_obs_steps=1"]
    assert run([*SMALL, *options, "runner.n_action_steps=2", *more]) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: k.npz: action: number 8 cannot be normalised in float32 with")
    assert not Path("multirun").exists()


def test_one_step_has_no_deviation_and_is_normalised() -> None:
    normalizer = Normalizer({"obs": 2})
    for mode in ("limits", "gaussian"):
        normalizer.fit("obs", torch.tensor([[3.0, -4.0]]), mode)
        assert all(bool(v.isfinite().all()) for v in normalizer.state_dict().values())
        assert normalizer.normalize("obs", torch.tensor([3.0, -4.0])).tolist() == [0, 0]


def test_a_deviation_is_the_one_it_was() -> None:
    data = torch.randn((50, 3), generator=torch.Generator().manual_seed(0))
    normalizer = Normalizer({"obs": 3})
    normalizer.fit("obs", data)
    assert torch.equal(normalizer.params_dict["obs"]["input_stats"]["std"], data.std(0))


def test_a_shipped_policy_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("kitchen", "lift"):
        load_policy(PROJECT / "checkpoints" / name)
    assert "cut" not in caplog.text
    assert replace(SamplerConfig(), clip_sample=False).clip_sample_range == 1.0
