"""Scripted experts of robosuite: what they do where, and that they solve what they are for."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from envs import CanTask, make_task
from envs.robosuite.experts.can import can_action
from envs.robosuite.experts.square import square_action
from envs.robosuite.world import RobosuiteEnv
from envs.task import FloatArray

DOWN = [1.0, 0.0, 0.0, 0.0]  # the hand's quaternion, xyzw
UPRIGHT = [0.0, 0.0, 0.0, 1.0]
OPEN, AROUND_CAN, AROUND_HANDLE = 0.08, 0.05, 0.02
EXPERTS = {"can": can_action, "square": square_action}


def seen(thing: list[float], hand: list[float], width_m: float) -> FloatArray:
    """Two equal observations of Can or Square, everything upright."""
    way = np.subtract(hand, thing)  # in the thing's own frame, which is the world's here
    fingers = [width_m / 2, -width_m / 2]
    obs = np.concatenate([thing, UPRIGHT, way, DOWN, hand, DOWN, fingers])
    return np.stack([obs, obs])


@pytest.mark.parametrize(
    ("hand", "width_m", "way", "grip"),
    [
        ([0.0, 0.1, 1.0], OPEN, (1, -1, None), -1),  # far: there, open
        ([0.1, -0.2, 0.98], OPEN, (0, 0, -1), -1),  # above: down
        ([0.1, -0.2, 0.862], OPEN, (0, 0, 0), 1),  # around it: close
        ([0.1, -0.2, 0.862], AROUND_CAN, (None, None, 1), 1),  # held: up
    ],
)
def test_the_can_is_fetched(
    hand: list[float], width_m: float, way: tuple[int | None, ...], grip: int
) -> None:
    action = can_action(seen([0.1, -0.2, 0.86], hand, width_m))
    assert action.shape == (7,)
    assert action[6] == grip
    for number, sign in zip(action, way, strict=False):
        assert sign is None or np.sign(np.round(number, 1)) == sign


def test_the_can_is_let_go_over_its_place() -> None:
    carried = can_action(seen([0.1, 0.1, 1.02], [0.1, 0.1, 1.03], AROUND_CAN))
    assert (carried[1] > 0.5, carried[6]) == (True, 1.0)
    over = can_action(seen([0.16, 0.36, 0.93], [0.16, 0.36, 0.94], AROUND_CAN))
    assert over[6] == -1.0


@pytest.mark.parametrize("expert", EXPERTS.values(), ids=EXPERTS)
def test_actions_are_bounded_and_of_two_observations_alone(
    expert: Callable[[FloatArray], FloatArray],
) -> None:
    rng = np.random.default_rng(0)
    things = rng.uniform([-0.1, -0.3, 0.83], [0.3, 0.3, 1.1], (50, 3))
    hands = things + rng.choice([0.0, 0.01, 0.2], (50, 1)) * rng.standard_normal((50, 3))
    hands[::2, 0] += 0.054  # the nut's handle
    widths = rng.choice([OPEN, AROUND_CAN, AROUND_HANDLE], 50)
    rows = [seen(*row) for row in zip(things.tolist(), hands.tolist(), widths, strict=True)]
    actions = [expert(row) for row in rows]
    again = [expert(row.copy()) for row in reversed(rows)][::-1]
    np.testing.assert_array_equal(actions, again)
    assert np.abs(actions).max() <= 1.0
    assert np.isfinite(actions).all()
    assert set(np.array(actions)[:, 6]) == {-1.0, 1.0}


@pytest.mark.parametrize(("name", "expert"), EXPERTS.items())
def test_an_episode_is_solved_through_disturbances(
    name: str, expert: Callable[[FloatArray], FloatArray]
) -> None:
    task = make_task(name)
    assert task.expert is not None
    assert (task.expert.act, task.expert.n_obs_steps) == (expert, 2)
    env, rng = RobosuiteEnv(task), np.random.default_rng(1)  # type: ignore[arg-type]
    obs, _ = env.reset(seed=2)
    before = obs
    for step in range(200):
        action = expert(np.stack([before, obs]))
        if step % 40 == 39:
            action[:3] = 0.8 * rng.choice([-1.0, 1.0], 3)  # a push
        before = obs
        obs, _, solved, _, _ = env.step(action)
        if solved:
            break
    env.close()
    assert solved


@pytest.mark.parametrize("parts", [False, True])
def test_beside_pictures_an_expert_does_what_it_does_with_numbers(parts: bool) -> None:
    shown = make_task("can", obs="image", parts=parts).for_expert()
    numbers = seen([0.1, -0.2, 0.86], [0.1, -0.2, 0.98], OPEN)
    names = list(shown.obs_parts) if parts else ["state"]
    cuts = [17, 21] if parts else []
    arms = dict(zip(names, np.split(numbers[:, 14:], cuts, axis=1), strict=True))
    assert shown.expert is not None
    assert not shown.expert.single
    action = shown.expert.act({"object": numbers[:, :14], **arms, "image.agentview": None})
    np.testing.assert_array_equal(action, can_action(numbers))
    assert make_task("can").for_expert().expert == CanTask.expert
    assert pickle.loads(pickle.dumps(shown)).obs_spec == shown.obs_spec
    transport = make_task("transport", obs="image")  # nobody demonstrates it
    assert transport.for_expert() is transport
