"""PushT: a round agent pushes a T onto its outline (Diffusion Policy, Chi et al. 2023).

Two conventions are in use, with the same physics and rewards: diffusion_policy's (9 keypoints and
the agent, start states of its own seeds) and LeRobot's (8 corners and the agent, or a picture and
the agent; gym-pusht's start states).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from skipstep.observations import IMAGE, STATE, ObservationSpec

from ..motion import Motion
from ..pictures import check_image_size, check_no_pictures
from ..task import EpisodeScore, FloatArray, Floats, Task, TrainingDefaults
from .data import (
    CONTROL_HZ,
    DIFFUSION_POLICY,
    KINDS,
    LEROBOT,
    N_ACTION,
    USUAL_KIND,
    keypoints_and_agent,
    kind_of,
    spec_of,
)

if TYPE_CHECKING:
    from ..task import Env
    from .env import PushTEnv

AUTO = "auto"
CONVENTIONS = (DIFFUSION_POLICY, LEROBOT)
NAMES = {"pusht_lowdim": DIFFUSION_POLICY, "pusht_image": DIFFUSION_POLICY}  # of PushT, in theirs
USUAL_SIZE, USUAL_CAMERA = 96, "image"


@dataclass
class PushTConfig:
    """Settings of PushT; what is "auto" or None is read from the checkpoint where there is one.

    Attributes:
        convention: of the start states: "diffusion_policy" (numpy's RandomState of the seed) or
            "lerobot" (gym-pusht's own).
        obs: "keypoints" (9 and the agent, 20 numbers), "state" (agent, block, angle: 5),
            "corners" (8 of the block, 16 numbers, and the agent's 2), or "image" (a picture, and
            the agent's 2).
        image_size: width and height of the picture, px; None without a checkpoint: 96.
        camera: the picture's name, after "image."; None without a checkpoint: "image".
        max_steps: an episode that does not cover the goal ends here.
    """

    name: str = "pusht"
    convention: str = AUTO
    obs: str = AUTO
    image_size: int | None = None
    camera: str | None = None
    max_steps: int = 300

    def __post_init__(self) -> None:
        for key, allowed in (("convention", CONVENTIONS), ("obs", tuple(KINDS))):
            if (got := getattr(self, key)) not in (AUTO, *allowed):
                words = ", ".join((AUTO, *allowed))
                raise ValueError(f"task.{key} must be one of {words}, got {got!r}")
        if self.max_steps < 1:
            raise ValueError(f"task.max_steps must be at least 1, got {self.max_steps}")
        check_image_size(self.image_size)

    def seeing(self, spec: ObservationSpec, said: str = "") -> PushTConfig:
        """This for a policy that sees `spec`, where it is not settled; what fits nothing stays.

        Args:
            spec: of the policy.
            said: the name that its checkpoint has for its task: one of diffusion_policy's settles
                the convention, others leave it to the kind of observation.

        Example:
            >>> PushTConfig().seeing(ObservationSpec.of({"state": 20})).resolved().convention
            'diffusion_policy'
            >>> seen = ObservationSpec.of({"state": 2, "image.top": (3, 384, 384)})
            >>> PushTConfig().seeing(seen).resolved()
            PushTConfig(name='pusht', convention='lerobot', obs='image', image_size=384, \
camera='top', max_steps=300)
        """
        obs = (kind_of(spec) or AUTO) if self.obs == AUTO else self.obs
        convention = NAMES.get(said, AUTO) if self.convention == AUTO else self.convention
        size, camera = self.image_size, self.camera
        if obs == "image" and len(spec.images) == 1:
            (picture,) = spec.images
            size = size or spec[picture].shape[-1]
            camera = camera or picture.removeprefix(IMAGE)
        return replace(self, obs=obs, convention=convention, image_size=size, camera=camera)

    def resolved(self) -> PushTConfig:
        """This with nothing left open.

        Raises:
            ValueError: a setting of pictures where none is seen.
        """
        obs = USUAL_KIND.get(self.convention, "keypoints") if self.obs == AUTO else self.obs
        convention = KINDS[obs].convention if self.convention == AUTO else self.convention
        size, camera = self.image_size, self.camera
        if KINDS[obs].has_image:
            size, camera = size or USUAL_SIZE, camera or USUAL_CAMERA
        else:
            check_no_pictures({"image_size": size, "camera": camera}, obs)
        return replace(self, obs=obs, convention=convention, image_size=size, camera=camera)


class PushTTask(Task):
    """Success is more than 95 % of the goal covered at any step; the score is the best reward."""

    name = "pusht"
    action_dim = N_ACTION
    control_hz = CONTROL_HZ
    memory_mb = 150
    instruction = "Push the T-shaped block onto the T-shaped target."
    requires = ("gym_pusht", "pymunk")
    training: ClassVar[TrainingDefaults] = TrainingDefaults(n_steps=30000)

    def __init__(self, config: PushTConfig | None = None) -> None:
        self.config = (config or PushTConfig()).resolved()
        self.max_steps = self.config.max_steps
        self.obs_dim = KINDS[self.config.obs].vectors[STATE]

    @property
    def obs_spec(self) -> ObservationSpec:
        """{name: array}; `single` for keypoints and state."""
        return spec_of(self.config.obs, self.config.image_size, self.config.camera)

    @classmethod
    def fitted(cls, config: PushTConfig, seen: ObservationSpec, said: str) -> PushTConfig:
        """What the policy sees settles the kind of observation, and that the start states."""
        return config.seeing(seen, said)

    def make_env(self, render: bool = False) -> Env:
        from .env import PushTEnv  # the workers' gymnasium: a policy needs none

        return PushTEnv(self.config)  # filmed or not, it is the same

    def score(self, rewards: FloatArray, info: Mapping[str, Any]) -> EpisodeScore:
        best = float(np.max(rewards, initial=0.0))
        details = {"max_reward": best, "final_coverage": float(info["coverage"])}
        return EpisodeScore(bool(info["is_success"]), best, {**details})

    def metrics(self, details: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return the mean of the largest rewards, under LeRobot's name for it."""
        if not details:
            return {}
        return {"avg_max_reward": float(np.mean([d["max_reward"] for d in details]))}

    def motion(self, env: Env) -> Motion:
        """The agent's position on the screen; it has no joints and no energy."""
        return Motion(effector_px=cast("PushTEnv", env).agent())

    def state(self, env: Env) -> FloatArray:
        """(10,): agent (2), block (2) and angle, as PushT's data have them; their velocities."""
        pusht: Any = cast("PushTEnv", env).unwrapped
        agent, block = pusht.agent, pusht.block
        still = [*agent.position, *block.position, block.angle]
        return np.array([*still, *agent.velocity, *block.velocity, block.angular_velocity])

    def env_args(self) -> dict[str, Any]:
        """Not an environment of robomimic's: the settings are for those who read the file."""
        return {"env_name": "skipstep/pusht", "type": 2, "env_kwargs": asdict(self.config)}

    def convert(self, obs: Floats, action: Floats) -> tuple[Floats, Floats]:
        """The published data's keypoints and state, where keypoints are seen."""
        return keypoints_and_agent(obs, action) if self.config.obs == "keypoints" else (obs, action)

    def info(self) -> dict[str, Any]:
        """diffusion_policy's names where its start states are used."""
        if self.config.convention == LEROBOT:
            return {"name": "pusht"}
        return {"name": "pusht_image" if self.config.obs == "image" else "pusht_lowdim"}

    @classmethod
    def reference_runner(cls, info: Mapping[str, Any]) -> dict[str, Any] | None:
        """Of its keypoints, on the start states that the demonstrations' environment has."""
        if info["name"] != "pusht_lowdim":
            return None
        return {
            "_target_": "pusht_keypoints_runner.PushTKeypointsRunner",
            "keypoint_visible_rate": 1.0,
            "train_start_seed": 0,
            "legacy_test": True,
            "max_steps": 300,
            "n_latency_steps": 0,
            "fps": 10,
            "agent_keypoints": False,
        }
