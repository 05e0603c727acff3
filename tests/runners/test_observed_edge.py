"""What a policy sees and what a task shows: compared once, and every difference is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

import envs
from envs import KitchenTask
from runners.errors import UserError
from runners.jobs.checkpoint import check_fit, task_of
from skipstep.observations import ObservationSpec
from tests.helpers.picture import PictureConfig, PictureRun, PictureTask

SHOWN = PictureTask()  # state of 3, image.top of 3 x 12 x 16, 10 times a second


def seeing(shapes: dict[str, Any], hz: float | None = None, action_dim: int = 2) -> Any:
    spec = ObservationSpec.of(shapes, hz)
    return SimpleNamespace(obs_spec=spec, action_dim=action_dim, obs_dim=9)


@pytest.mark.parametrize("hz", [None, 10.0])
def test_a_policy_that_sees_what_is_shown_fits(hz: float | None) -> None:
    check_fit(seeing({"image.top": (3, 12, 16), "state": 3}, hz), SHOWN, "here")


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            seeing({"state": 3}),
            "does not fit the observations of task=picture: "
            "image.top of 3 x 12 x 16 pixels is not asked for",
        ),
        (
            seeing({"state": 3, "image.top": (3, 12, 16), "image.wrist": (3, 9, 9)}),
            "does not fit the observations of task=picture: "
            "image.wrist of 3 x 9 x 9 pixels is missing",
        ),
        (
            seeing({"state": 4, "image.top": (3, 96, 96), "environment_state": 2}, 20.0),
            "does not fit the observations of task=picture: "
            "environment_state of 2 numbers is missing; state must be of 4 numbers, got 3 numbers; "
            "image.top must be of 3 x 96 x 96 pixels, got 3 x 12 x 16 pixels; "
            "it is seen 20 times a second, not 10",
        ),
        (
            seeing({"state": 3, "image.top": (3, 12, 16)}, action_dim=7),
            "has action_dim 7, task=picture has 2",
        ),
    ],
)
def test_every_difference_is_named_in_one_line(policy: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        check_fit(policy, SHOWN, "a/folder")
    assert str(error.value) == f"task.checkpoint a/folder {said}"


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (seeing({"state": 59}, action_dim=9), "has obs_dim 59, task=kitchen has 60"),
        (seeing({"state": 59}, action_dim=8), "has obs_dim 59, task=kitchen has 60"),
        (seeing({"state": 60}, action_dim=8), "has action_dim 8, task=kitchen has 9"),
        (
            seeing({"state": 60}, 10.0, action_dim=9),
            "does not fit the observations of task=kitchen: it is seen 10 times a second, not 12.5",
        ),
    ],
)
def test_single_arrays_are_told_apart_by_their_lengths(policy: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        check_fit(policy, KitchenTask(), "a.ckpt")
    assert str(error.value) == f"task.checkpoint a.ckpt {said}"


def test_a_task_fits_itself_to_a_policy_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(envs.TASKS, "picture", (PictureConfig, PictureRun))
    node = OmegaConf.create({"name": "picture", "max_steps": 7, "checkpoint": "a"})
    seen = ObservationSpec.of({"state": 3, "image.top": (3, 20, 24)})
    task = task_of(node, {}, seen)
    assert (task.obs_spec["image.top"].shape, task.max_steps) == ((3, 20, 24), 7)
    assert task_of(node, {}).obs_spec["image.top"].shape == (3, 12, 16)
    check_fit(seeing({"state": 3, "image.top": (3, 20, 24)}), task, "a")
    asked = OmegaConf.merge(node, {"size": 30})
    with pytest.raises(ValueError, match=r"task\.size=30 contradicts the checkpoint, 20"):
        task_of(asked, {}, seen)
    assert task_of(asked, {}, ObservationSpec.of({"state": 3})).obs_spec["image.top"].shape[1] == 30


def test_other_tasks_are_as_asked_for_whatever_a_policy_sees() -> None:
    node = OmegaConf.create({"name": "kitchen", "max_steps": 9})
    seen = ObservationSpec.of({"state": 3, "image.top": (3, 20, 24)})
    assert vars(task_of(node, {}, seen)) == vars(task_of(node, {}))
