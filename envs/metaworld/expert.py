"""Meta-World's own scripts: one for each of its worlds, which acts on one observation alone."""

from __future__ import annotations

import warnings
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ..task import Expert, FloatArray
from .names import N_ACTION
from .package import load_metaworld


def expert_of(env: str) -> Expert:
    """Who demonstrates a world; metaworld is imported when it first acts.

    Args:
        env: Meta-World's name of the world.
    """
    return Expert(partial(scripted_action, env), n_obs_steps=1, action_dim=N_ACTION, single=True)


def scripted_action(env: str, obs: FloatArray) -> FloatArray:
    """The script's action in the bounds of the action space; it keeps nothing between calls.

    Scripts ask for far more than the arm can do in a step, and the environment clips that. Clipped
    here, it is what a dataset should have, and noise on it is not lost in what is clipped off.

    Args:
        env: Meta-World's name of the world.
        obs: (n_obs_steps, 39), the newest last.

    Returns:
        (4,) change of the hand's position, as a share of 1 cm, and the gripper's effort.

    Raises:
        ValueError: metaworld has no script for this world.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will be clipped, in every episode
        action = _script(env).get_action(obs[-1].copy())  # some scripts write into what they see
    return np.clip(np.asarray(action, np.float64), -1.0, 1.0)


@lru_cache(maxsize=64)
def _script(env: str) -> Any:
    scripts = load_metaworld("policies").ENV_POLICY_MAP
    if env not in scripts:
        raise ValueError(f"runner.source=expert: metaworld has no script for task.env={env}")
    return scripts[env]()
