"""A world of LIBERO on robosuite 1.4, started from one of its recorded states.

An episode of a seed begins with LIBERO's own reset, which draws where furniture stands from numpy's
global generator, then the start state with the number seed modulo 50, then some steps without
motion. Evaluations of openpi and LeRobot do the same.

LIBERO makes the whole model anew at each reset, for 5 to 10 seconds, although nothing in a model is
drawn; here it is made once, and an episode is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..robosuite.world import RobosuiteEnv, cameras_of
from ..task import FloatArray
from .observations import axis_angle
from .suites import check_package, libero, world_of
from .task import LiberoTask

NO_MOTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])  # an open gripper


class LiberoEnv(RobosuiteEnv):
    """One of LIBERO's worlds; an episode ends at the first success."""

    task: LiberoTask

    def __init__(self, task: LiberoTask, render: bool = False) -> None:
        check_package()
        super().__init__(task, render)
        self._measure()
        with np.load(self.world.start_states) as file:
            self.start_states: FloatArray = file["states"]
        self.start_state = 0

    def _made(self, robosuite: Any) -> Any:
        self.world = world_of(self.task.config.suite, self.task.config.index)
        made = libero("libero.libero.envs").TASK_MAPPING[self.world.problem](
            str(self.world.description),
            robots=["Panda"],
            initialization_noise=None,
            has_renderer=False,
            has_offscreen_renderer=self.renders,
            ignore_done=True,
            hard_reset=False,
            **cameras_of(self.task),
            **self.task.arguments,
        )
        for observable in made._observables.values():
            if observable.modality == "object":
                observable.set_enabled(False)  # nobody sees the things' numbers
        return made

    def _started(self, seed: int | None) -> tuple[Mapping[str, Any], dict[str, Any]]:
        number = np.random.randint(len(self.start_states)) if seed is None else seed
        self.start_state = int(number % len(self.start_states))
        settle_steps = self.task.config.settle_steps
        with self._eyes_closed():
            self._place()
            if settle_steps:
                self._put()
            for _ in range(settle_steps - 1):
                self._act(NO_MOTION)
        obs = self._act(NO_MOTION) if settle_steps else self._put()
        self.meter.begin()  # a reset costs nothing
        return obs, {"start_state": self.start_state}

    def _place(self) -> None:
        """LIBERO's reset; where things would overlap it draws again."""
        from robosuite.utils.errors import RandomizationError

        while True:
            try:
                self.sim_env.reset()
            except RandomizationError:
                continue
            return

    def _put(self) -> Mapping[str, Any]:
        """Things and robot as they were recorded."""
        env = self.sim_env
        env.sim.set_state_from_flattened(self.start_states[self.start_state])
        env.sim.forward()
        env._check_success()
        env._post_process()
        env._update_observables(force=True)
        obs: Mapping[str, Any] = env._get_observations()
        return obs

    @contextmanager
    def _eyes_closed(self) -> Iterator[None]:
        """Pictures are black: rendering those that nobody sees is most of a reset.

        The sensors are exchanged, not disabled, as that would move the moments they are read at.
        """
        observables = self.sim_env._observables.values()
        sensors = {o: o._sensor for o in observables if o.modality == "image"}

        def black(seen: Any) -> NDArray[np.uint8]:
            assert self.task.view is not None
            return np.zeros((self.task.view.image_size, self.task.view.image_size, 3), np.uint8)

        black.__modality__ = "image"  # type: ignore[attr-defined]
        for observable in sensors:
            observable._sensor = black
        try:
            yield
        finally:
            for observable, sensor in sensors.items():
                observable._sensor = sensor

    def step(self, action: FloatArray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"start_state": self.start_state}

    def _numbers(self, obs: Mapping[str, Any]) -> dict[str, FloatArray]:
        hand = [obs["robot0_eef_pos"], axis_angle(obs["robot0_eef_quat"])]
        gripper = np.asarray(obs["robot0_gripper_qpos"], np.float64)
        return {"ee_states": np.concatenate(hand), "gripper_states": gripper}

    def _picture(self, rendered: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return rendered[::-1, ::-1] if self.task.config.turned else rendered
