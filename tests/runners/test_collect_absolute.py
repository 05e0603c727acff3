"""Lift with absolute poses: recorded, written, read back, replayed and trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from envs import LiftConfig, LiftTask
from envs.robosuite.experts.lift import lift_action
from envs.robosuite.world import RobosuiteEnv
from policies import (
    DiffusionPolicy,
    NetworkConfig,
    PolicyConfig,
    SamplerConfig,
    TaskInfo,
    load_policy,
    read_dataset,
    save_policy,
)
from runners.cli import run
from runners.collect import robomimic_file
from runners.collect.demos import Demo, DemoSet
from runners.episodes.loop import evaluate
from runners.episodes.trajectory import Trajectory

SEED = 3


class AbsoluteExpert:
    """The scripted expert, saying where to go instead of how far."""

    n_obs_steps = 2
    n_action_steps = 1

    def __init__(self, rotation: np.ndarray) -> None:
        self.rotation = rotation[:2].ravel()

    def act(self, obs: Tensor, noise: Sequence[torch.Generator]) -> Tensor:
        actions = []
        for row in obs.double().numpy():
            step = lift_action(row)
            actions.append(np.r_[row[1, 10:13] + 0.05 * step[:3], self.rotation, step[6]])
        return torch.from_numpy(np.stack(actions)[:, None])


def test_a_recorded_absolute_episode_replays(tmp_path: Path) -> None:
    task = LiftTask(LiftConfig(abs_action=True, max_steps=80))
    env = RobosuiteEnv(task)
    env.reset(seed=SEED)
    expert = AbsoluteExpert(env.sim_env.robots[0].controller.ee_ori_mat.copy())
    (result,) = evaluate(expert, task, [SEED], 1, 0, policy_batch=1, record=True)
    steps = result.trajectory
    assert result.success
    assert isinstance(steps, Trajectory)
    assert steps.actions.shape[1] == 10
    steps.save(tmp_path / "3.npz")
    file = tmp_path / "abs.hdf5"
    robomimic_file.write(file, DemoSet(task, [Demo(SEED, True, 0.0, tmp_path / "3.npz")], 0.1, ""))
    with h5py.File(file) as written:
        kwargs = json.loads(written["data"].attrs["env_args"])["env_kwargs"]
        assert kwargs["controller_configs"]["control_delta"] is False
        assert written["data/demo_0/actions"].shape == (len(steps), 7)
    assert LiftTask(LiftConfig(env_args=str(file))).abs_action
    data = read_dataset([file], obs_keys=list(task.obs_parts))
    _, actions = task.convert(data.obs, data.action)
    np.testing.assert_allclose(actions, steps.actions, atol=1e-5)
    obs, _ = env.reset(seed=SEED)
    np.testing.assert_array_equal(obs, steps.obs[0])
    for number, action in enumerate(actions):
        obs, _, lifted, _, _ = env.step(action.astype(np.float64))
        np.testing.assert_allclose(obs, steps.obs[number + 1], atol=1e-3)
    assert lifted


def test_an_absolute_policy_collects_what_an_absolute_policy_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = NetworkConfig(10, 10, 10, 2, cond_dim=19, n_layer=1, n_head=2, n_emb=16)
    config = PolicyConfig(
        network,
        obs_dim=19,
        action_dim=10,
        n_action_steps=8,
        sampler=SamplerConfig(steps=2, num_train_timesteps=2),
        task=TaskInfo("lift_lowdim", abs_action=True),
    )
    policy = DiffusionPolicy(config)
    home = torch.tensor([-0.1, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0])
    with torch.no_grad():  # near the hand
        policy.normalizer.params_dict["action"]["scale"].fill_(20.0)
        policy.normalizer.params_dict["action"]["offset"].copy_(-20.0 * home)
    save_policy(policy, "absolute")
    common = ["task=lift", "threads=1", "logger=none", "videos=0", "n_episodes=2", "n_envs=1"]
    collect = [
        *("runner=collect", "runner.source=policy", "runner.success_only=false"),
        *("task.checkpoint=absolute", "task.max_steps=12"),
    ]
    assert run([*common, *collect]) == 0
    (file,) = Path().glob("multirun/main/*/dataset.hdf5")
    with h5py.File(file) as written:
        assert written["data/demo_1/actions"].shape == (12, 7)
    small = ["runner=train", "runner.n_steps=1", "runner.n_layer=1", "runner.n_emb=16"]
    assert run([*common, *small, "task.abs_action=true", "runner.init=absolute/"]) == 2
    assert "has n_head=2, this training has 4" in capfd.readouterr().err
    assert run([*common, *small, "task.abs_action=true"]) == 0
    (trained,) = Path().glob("multirun/main/*/policy")
    assert load_policy(trained).config.task.abs_action is True
    assert load_policy(trained).action_dim == 10
    assert run([*common, *small]) == 2
    assert "look like poses, task.abs_action=false needs" in capfd.readouterr().err
    assert run([*common, "runner=collect", "task.abs_action=true"]) == 2
    said = capfd.readouterr().err
    assert "runner.source=expert acts relatively, got task.abs_action=true" in said
