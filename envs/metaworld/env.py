"""A world of Meta-World, started by a seed alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..motion import Motion
from ..task import FloatArray
from .names import N_ACTION, N_OBS
from .package import load_metaworld

if TYPE_CHECKING:
    from .task import MetaworldConfig

N_ARM_JOINTS = 7  # the first of the positions; then two claws, which slide
FRAME_SIZE = 256
CAMERA = "corner2"
MOVED = ("body_pos", "site_pos")  # of the model: a reset puts doors, boxes and goals there


class MetaworldEnv(gym.Env[FloatArray, FloatArray]):
    """One of Meta-World's environments, `world`, with its goal in the observation.

    Meta-World's benchmarks draw 50 start states from numpy's global generator. Here each seed draws
    its own, in the same way and from the same ranges, from a generator of the seed: the positions
    of objects and goal, which Meta-World keeps as its `rand_vec`.

    A reward is 1 for a success, else 0, and the first success ends an episode, as in Meta-World's
    own `evaluation`. Its shaped reward, from 0 to 10, is `info["shaped_reward"]`.
    """

    def __init__(self, config: MetaworldConfig, render: bool = False) -> None:
        if render:
            os.environ.setdefault("MUJOCO_GL", "egl")
        made = load_metaworld("env_dict").ALL_V3_ENVIRONMENTS[config.env]
        filmed = {"render_mode": "rgb_array", "camera_name": CAMERA}
        self.world = made(**filmed if render else {}, width=FRAME_SIZE, height=FRAME_SIZE)
        self.render_mode = self.world.render_mode
        self.world.max_path_length = config.max_steps
        self.world._set_task_called = True
        self.world._partially_observable = False
        del self.world.sawyer_observation_space  # it was made for a goal that cannot be seen
        self.world.seeded_rand_vec = True
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (N_OBS,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (N_ACTION,), np.float64)
        model, data = self.world.model, self.world.data
        self.untouched = {name: getattr(model, name).copy() for name in MOVED}
        self.hand, self.arm = data.body("hand").xpos, data.qpos[:N_ARM_JOINTS]  # views
        if render:
            # shadows, antialiasing and reflections are nearly all of a frame's time without a GPU
            model.vis.quality.shadowsize = 0
            model.vis.quality.offsamples = 0
            model.mat_reflectance[:] = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """The start state of a seed; without one, the next of the last seed's generator."""
        world = self.world
        if seed is not None:
            world.seed(seed)
        world._freeze_rand_vec = False
        self._forget()
        world.reset_model()  # draws until objects and goal are far enough apart
        world._freeze_rand_vec = True
        self._forget()
        obs, _ = world.reset()  # puts them where they were drawn
        return np.asarray(obs, np.float64), {"success": False, "shaped_reward": 0.0}

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        obs, shaped, _, truncated, info = self.world.step(np.asarray(action, np.float64))
        success = bool(info["success"])
        said = {"success": success, "shaped_reward": float(shaped)}
        return obs, float(success), success, bool(truncated), said

    def motion(self) -> Motion:
        """Hand and joints; a weld drags the arm along, and what that takes is not known."""
        return Motion(self.hand.copy(), self.arm.copy())

    def state(self) -> FloatArray:
        """Positions, velocities, the mocap's pose (7), the goal (3), what was drawn (2 to 6)."""
        data, world = self.world.data, self.world
        mocap = data.mocap_pos[0], data.mocap_quat[0]
        drawn = world._target_pos, world._last_rand_vec
        return np.concatenate([data.qpos, data.qvel, *mocap, *drawn])

    def render(self) -> NDArray[np.uint8]:
        """(256, 256, 3), turned by half a turn: this camera hangs upside down."""
        frame: NDArray[np.uint8] = self.world.render()
        return frame[::-1, ::-1].copy()

    def close(self) -> None:
        self.world.close()

    def _forget(self) -> None:
        """Put the simulation back to what it was before any episode."""
        import mujoco

        model, data = self.world.model, self.world.data
        for name, values in self.untouched.items():
            getattr(model, name)[:] = values
        mujoco.mj_resetData(model, data)
