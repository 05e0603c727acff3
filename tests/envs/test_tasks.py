"""What is known of a task in its own folder, and which task a checkpoint's words mean."""

from __future__ import annotations

import numpy as np
import pytest

import envs
from envs import TASKS, KitchenConfig, KitchenTask, LiftConfig, LiftTask, reference_runner, task_in
from policies import TaskInfo
from tests.helpers.toy import ToyTask


@pytest.mark.parametrize(
    ("words", "task"),
    [
        ("lift_lowdim", "lift"),
        ("Lift", "lift"),
        ("lift_hard_lowdim", "lift_hard"),
        ("kitchen-lowdim-abs", "kitchen"),
        ("franka_kitchen", "kitchen"),
        ("kitchen_partial", "kitchen_partial"),
        ("pusht_image", "pusht"),
        ("tool_hang_lowdim", "tool_hang"),
        ("metaworld/stick-push-v3", "metaworld"),
        ("uplift_lowdim", None),
        ("liftoff", None),
        ("", None),
    ],
)
def test_the_longest_whole_name_is_meant(
    words: str, task: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = dict.fromkeys(("lift_hard", "kitchen_partial", "tool_hang"), TASKS["lift"])
    monkeypatch.setattr(envs, "TASKS", {**TASKS, **more})
    assert task_in(words) == task


def test_a_checkpoint_says_what_its_task_is_and_is_found_again_by_it() -> None:
    needed = {"metaworld": {"env": "push-v3"}}
    for name, (config, kind) in TASKS.items():
        info = TaskInfo(**kind(config(**needed.get(name, {}))).info())
        assert task_in(info.name) == name
    assert TaskInfo(**LiftTask(LiftConfig(abs_action=True)).info()).abs_action
    assert TaskInfo(**KitchenTask(KitchenConfig(robot_noise_ratio=0.2)).info()) == TaskInfo(
        "kitchen_lowdim", True, 0.2
    )


def test_a_task_that_says_nothing_of_data_is_trained_as_it_is() -> None:
    task = ToyTask()
    obs, action = np.zeros((4, 3), np.float32), np.ones((4, 2), np.float32)
    assert task.convert(obs, action) == (obs, action)
    assert (task.info(), task.expert, task.noise_amplitude) == ({"name": "toy"}, None, None)
    assert (task.training.horizon, task.observation_noise()) == (16, 0.0)


def test_the_settings_of_the_reference_runner_are_of_the_task_that_is_meant() -> None:
    said = {"abs_action": True, "robot_noise_ratio": None}
    lift = reference_runner({"name": "lift_lowdim", **said})
    assert lift is not None
    assert lift["dataset_path"].endswith("low_dim_abs.hdf5")
    assert lift["obs_keys"] == list(LiftTask().obs_parts)
    kitchen = reference_runner({"name": "kitchen_lowdim", **said})
    assert kitchen is not None
    assert kitchen["robot_noise_ratio"] == 0.1
    pusht = reference_runner({"name": "pusht_lowdim"})
    assert pusht is not None
    assert pusht["legacy_test"] is True  # the start states of envs/pusht/
    assert "abs_action" not in pusht  # which its runner does not take
    assert reference_runner({"name": "door_lowdim", **said}) is None
    for name in ("can_image", "pusht_image"):
        assert reference_runner({"name": name, **said}) is None
