"""The world of PushT: gym-pusht's, with start states and observations of two conventions.

gym-pusht has the physics that PushT's demonstrations were recorded in, as long as pymunk is older
than 7: a recorded episode comes out the same to a ten-thousandth of a pixel for twenty steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from ..pictures import observation_space
from ..task import FloatArray, Task
from .cover import covered_share
from .data import DIFFUSION_POLICY, KINDS, keypoints, spec_of, start_state

if TYPE_CHECKING:
    from .task import PushTConfig

FRAME_SIZE = 256
MAX_SEED = 2**31


class PushTEnv(gym.Wrapper[Any, FloatArray, Any, Any]):
    """gym-pusht's environment, which is `unwrapped`, seen and started as the settings say.

    An episode ends at the first step with more than 95 % of the goal covered, or after
    `max_steps`. A reward is the covered share divided by 0.95, and 1 at most: see cover.py.

    Observations are an array where there is one (keypoints, state), else {name: array}; pictures
    are (3, H, W) uint8. Actions (2,) are where the agent is to go, px; they are not limited.
    """

    def __init__(self, config: PushTConfig) -> None:
        kind, size = KINDS[config.obs], config.image_size or FRAME_SIZE
        pusht = _load_gym_pusht().PushTEnv(
            obs_type=kind.obs_type,
            observation_width=size,
            observation_height=size,
            visualization_width=FRAME_SIZE,
            visualization_height=FRAME_SIZE,
        )
        super().__init__(pusht)
        self.config = config
        seen = spec_of(config.obs, config.image_size, config.camera)
        self.observation_space = observation_space(seen)
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.n_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The start state of a seed; `options={"reset_to_state": ...}` as gym-pusht has it.

        Without a seed the next start state is drawn from gym-pusht's generator.
        """
        self.n_steps = 0
        pusht: Any = self.unwrapped
        pusht._last_action = None  # else a film begins with the target of the episode before
        options = options or {}
        if self.config.convention == DIFFUSION_POLICY and options.get("reset_to_state") is None:
            drawn = int(pusht.np_random.integers(MAX_SEED)) if seed is None else seed
            # position first and then the angle, as diffusion_policy's evaluation has it
            options = {**options, "reset_to_state": start_state(drawn)}
        raw, info = self.env.reset(seed=seed, options=options)
        return self._seen(raw), info

    def step(self, action: FloatArray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        raw, _, _, _, info = self.env.step(np.asarray(action, np.float64))
        pusht: Any = self.unwrapped
        coverage = covered_share(info["block_pose"].tolist(), info["goal_pose"].tolist())
        success = coverage > pusht.success_threshold
        reward = min(coverage / pusht.success_threshold, 1.0)
        truncated = self.n_steps >= self.config.max_steps
        info = {**info, "coverage": coverage, "is_success": success}
        return self._seen(raw), reward, success, truncated, info

    def agent(self) -> FloatArray:
        """(2,) px."""
        pusht: Any = self.unwrapped
        return np.array(pusht.agent.position)

    def _seen(self, raw: Any) -> Any:
        return SEEN[self.config.obs](self, raw)


def _keypoints(env: PushTEnv, raw: FloatArray) -> FloatArray:
    pusht: Any = env.unwrapped
    block = keypoints(np.array(pusht.block.position), pusht.block.angle)
    return np.concatenate([block.ravel(), raw[:2]])


def _corners(env: PushTEnv, raw: dict[str, Any]) -> dict[str, Any]:
    return {"state": raw["agent_pos"], "environment_state": raw["environment_state"]}


def _image(env: PushTEnv, raw: dict[str, Any]) -> dict[str, Any]:
    picture = np.ascontiguousarray(raw["pixels"].transpose(2, 0, 1))
    return {"state": raw["agent_pos"], f"image.{env.config.camera}": picture}


SEEN: dict[str, Callable[[PushTEnv, Any], Any]] = {  # gym-pusht's in our names and layout
    "keypoints": _keypoints,
    "state": lambda env, raw: raw,
    "corners": _corners,
    "image": _image,
}


def _load_gym_pusht() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a display
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it greets, in every worker
    try:
        envs = import_module("gym_pusht.envs")
    except ImportError as error:
        raise ImportError(f"pusht needs gym-pusht: {Task.install}") from error
    if int((version := metadata.version("pymunk")).partition(".")[0]) >= 7:
        raise ImportError(f"pusht needs pymunk below 7, got {version}: {Task.install}")
    return envs
