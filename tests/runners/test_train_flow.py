"""Trainings of DiTs, and of any family by flow matching, from the command line to their loading."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from policies import DiffusionPolicy, load_policy
from policies.sampling.flow import VELOCITY
from policies.training import (
    Batch,
    flow_loss,
    flow_times,
    optimizer_of,
    recipe_of,
    trajectory_shape,
)
from runners.cli import run
from tests.helpers.dit import ACTION, HORIZON, OBS, dit_policy, flow
from tests.helpers.train_files import write_robomimic

DIT = [f"runner.dit.{size}" for size in ("n_layer=1", "n_head=2", "n_emb=16")]
SMALL = ["runner=train", "threads=1", "logger=none", "runner.batch_size=8", "runner.val_ratio=0.3"]
FAMILIES = {
    "dit": ["runner.network=dit", *DIT, "runner.dit.timestep_embed_dim=8"],
    "transformer": ["runner.n_layer=1", "runner.n_head=2", "runner.n_emb=16"],
    "unet": ["runner.family=unet", "runner.unet.down_dims=[8,16]", "runner.horizon=16"],
}
OBJECTIVES = {
    "flow": ["runner.objective=flow", "runner.flow.steps=3"],
    "diffusion": ["runner.num_train_timesteps=3"],
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])


def train(*words: str) -> Path:
    """Run to the end; the run's folder."""
    before = set(Path.cwd().glob("multirun/main/*"))
    assert run([*SMALL, *words]) == 0
    (folder,) = set(Path.cwd().glob("multirun/main/*")) - before
    return folder


def lift(family: Sequence[str], *words: str) -> Path:
    data = write_robomimic(Path("a.hdf5"))
    return train("task=lift", f"runner.data={data}", *family, *words)


@pytest.mark.parametrize(
    ("family", "objective"),
    [("dit", "flow"), ("dit", "diffusion"), ("transformer", "flow"), ("unet", "flow")],
)
def test_it_is_trained_saved_and_loaded(family: str, objective: str) -> None:
    words = [*OBJECTIVES[objective], "runner.n_steps=2"]
    folder = lift(FAMILIES[family], *words)
    policy = load_policy(folder / "policy")
    assert policy.sizes.family == family
    assert policy.config.sampler.is_flow == (objective == "flow")
    result = json.loads((folder / "result.json").read_text())
    assert result["policy_fingerprint"] == policy.fingerprint()
    obs = torch.zeros(2, policy.n_obs_steps, policy.obs_dim)
    twins = policy.with_sampler("rk4", 2) if objective == "flow" else policy.with_sampler("ddim", 2)
    for one in (policy, twins):
        noise = [torch.Generator().manual_seed(i) for i in range(2)]
        assert one.act(obs, noise).isfinite().all()


def test_flow_matching_learns_what_to_do() -> None:
    """Where the observation is positive, all actions are 0.5, else -0.5."""
    policy = dit_policy(flow("euler", 8), n_layer=2, n_emb=32)
    recipe = recipe_of(policy)
    recipe.initial_weights(policy.model, torch.Generator().manual_seed(0))
    optimizer, generator = optimizer_of(policy, 3e-3, 0.0), torch.Generator().manual_seed(1)

    def drawn(n: int) -> Batch:
        sign = torch.randint(0, 2, (n, 1, 1), generator=generator) * 2.0 - 1
        return Batch(sign.expand(n, HORIZON, OBS), sign.expand(n, HORIZON, ACTION) / 2)

    for _ in range(100):
        noise = torch.randn(trajectory_shape(policy, 32), generator=generator)
        loss = flow_loss(policy, drawn(32), noise, flow_times(32, generator, None))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = drawn(16)
    told = seen.obs[:, : policy.n_obs_steps]
    for kind in ("euler", "rk4"):
        noises = [torch.Generator().manual_seed(i) for i in range(16)]
        found = policy.with_sampler(kind).act(told, noises)
        assert float((found - seen.action[:, :4]).abs().mean()) < 0.15  # noise is 0.9 away


def test_a_run_goes_on_from_one_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    first = lift(FAMILIES["dit"], *OBJECTIVES["flow"], "runner.n_steps=1") / "policy"
    again = lift(FAMILIES["dit"], *OBJECTIVES["flow"], "runner.n_steps=1", f"runner.init={first}")
    assert load_policy(again / "policy").config.network == load_policy(first).config.network
    words = ["task=lift", "runner.data=a.hdf5", f"runner.init={first}", "runner.n_steps=2"]
    for more, said in (
        ([*FAMILIES["dit"], *OBJECTIVES["diffusion"]], "has num_train_timesteps=100"),
        ([*FAMILIES["dit"], *OBJECTIVES["flow"], "runner.dit.n_layer=2"], "has n_layer=1"),
        ([*FAMILIES["transformer"], *OBJECTIVES["flow"]], "this training a transformer: see"),
    ):
        assert run([*SMALL, *words, *more]) == 2
        assert said in capsys.readouterr().err


REFUSED: list[tuple[list[str], str]] = [
    (["runner.objective=score"], "runner.objective must be one of diffusion, flow, got 'score'"),
    (["runner.network=mlp"], "runner.network must be null or one of transformer, unet, dit, got"),
    (["runner.family=unet", "runner.network=dit"], "runner.network is another name of runner.fam"),
    (["runner.dit.n_emb=8"], "runner.dit is of runner.family=dit, this training is of runner.fam"),
    (["runner.network=dit", "runner.n_emb=8"], "runner.n_emb is of runner.family=transformer"),
    (["runner.flow.steps=8"], "runner.flow is of runner.objective=flow, this training is of"),
    (["runner.objective=flow", "runner.clip=2"], "runner.clip is of runner.objective=diffusion"),
    (["runner.objective=flow", "runner.prediction_type=sample"], "runner.prediction_type is of"),
    (["runner.objective=flow", "runner.flow.times=normal"], "runner.flow.times must be beta or"),
    (["runner.objective=flow", "runner.flow.most=0"], "runner.flow.most must be above 0"),
    (["runner.objective=flow", "runner.flow.alpha=0"], "runner.flow.alpha must be above 0"),
    (["runner.objective=flow", "runner.flow.steps=0"], "sampler.steps must be at least 1, got 0"),
    (["runner.objective=flow", "runner.flow.sigma_min=1"], "sampler.sigma_min must be at least 0"),
    (["runner.objective=flow", "sampler=ddim"], "sampler=ddim is of policies that predict noise"),
    (["sampler=rk4"], "sampler=rk4 is of policies that predict a velocity"),
    ([*FAMILIES["dit"], "runner.obs_as_cond=false"], "runner.obs_as_cond must be true with runner"),
    ([*FAMILIES["dit"], "runner.dit.n_head=3"], "network.n_emb must be a multiple of 6"),
    (["runner.prediction_type=velocity"], "sampler=ddpm is of policies that predict noise"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_setting_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_robomimic(Path("a.hdf5"))
    assert run([*SMALL, "task=lift", f"runner.data={data}", *words]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert said in err
    assert not Path("multirun").exists()


def batch(policy: DiffusionPolicy, n: int = 4) -> tuple[Batch, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    obs = torch.randn((n, HORIZON, OBS), generator=generator)
    action = torch.randn((n, HORIZON, ACTION), generator=generator)
    return Batch(obs, action), torch.randn(trajectory_shape(policy, n), generator=generator)


@pytest.mark.parametrize("sigma_min", [0.0, 0.2])
def test_the_loss_is_that_of_the_velocity(sigma_min: float) -> None:
    policy = dit_policy(flow(sigma_min=sigma_min))
    seen, noise = batch(policy)
    times = torch.tensor([0.0, 0.3, 0.9, 1.0])
    x0 = policy.normalizer.normalize("action", seen.action)
    told: dict[str, Any] = {}

    class Perfect(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            told.update(x=x, t=t)
            return x0 - (1 - sigma_min) * noise

    policy.model = Perfect()
    assert float(flow_loss(policy, seen, noise, times)) == 0
    assert torch.equal(told["t"], times)
    torch.testing.assert_close(told["x"][0], noise[0])
    torch.testing.assert_close(told["x"][3], x0[3] + sigma_min * noise[3])
    assert policy.config.sampler.prediction_type == VELOCITY


def test_times_are_the_generators_and_of_their_distribution() -> None:
    drawn = [flow_times(4000, torch.Generator().manual_seed(3), (1.5, 1.0), 0.999) for _ in "ab"]
    assert torch.equal(*drawn)
    assert float(drawn[0].max()) <= 0.999
    assert float(drawn[0].mean()) == pytest.approx(0.999 * (1 - 0.6), abs=0.02)  # a / (a + b)
    even = flow_times(4000, torch.Generator().manual_seed(3), None)
    assert float(even.mean()) == pytest.approx(0.5, abs=0.02)
