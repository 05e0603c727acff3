"""The numbers of PushT: keypoints and start states of diffusion_policy; kinds of observations.

Positions are pixels of a square world, 512 wide, whose second axis points down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skipstep.observations import ENVIRONMENT, IMAGE, STATE, ObservationSpec

from ..task import FloatArray, Floats

CONTROL_HZ = 10.0
WORLD_PX = 512
N_ACTION = 2  # where the agent is to go
N_AGENT = 2
N_STATE = 5  # the agent, the block and its angle
DIFFUSION_POLICY, LEROBOT = "diffusion_policy", "lerobot"

KEYPOINTS = np.array(
    [
        [9.269786713763871, 90.04097352393619],
        [-60.983472364471474, -1.1867297607997276],
        [60.91275557727772, -1.3933642242328201],
        [-0.2705034390160016, 25.54362499146542],
        [-14.064927576212233, 122.81585355412153],
        [39.002738500170146, 32.857404276587566],
        [-39.966414424694534, 32.729655446429945],
        [-16.82434437939744, 62.86317892234989],
        [23.54146122024909, -1.7002881094626152],
    ]
)
"""(9, 2) of the block in its own frame, px: diffusion_policy draws them with a fixed generator."""


@dataclass(frozen=True)
class Kind:
    """One kind of observation.

    Attributes:
        obs_type: what gym-pusht calls what it is made from.
        convention: whose start states its policies are evaluated on, unless told otherwise.
        vectors: {name: length}; a picture comes on top where `has_image`.
    """

    obs_type: str
    convention: str
    vectors: Mapping[str, int]
    has_image: bool = False


KINDS = {
    "keypoints": Kind("state", DIFFUSION_POLICY, {STATE: KEYPOINTS.size + N_AGENT}),
    "state": Kind("state", LEROBOT, {STATE: N_STATE}),
    "corners": Kind("environment_state_agent_pos", LEROBOT, {STATE: N_AGENT, ENVIRONMENT: 16}),
    "image": Kind("pixels_agent_pos", LEROBOT, {STATE: N_AGENT}, has_image=True),
}
USUAL_KIND = {DIFFUSION_POLICY: "keypoints", LEROBOT: "corners"}


def kind_of(spec: ObservationSpec) -> str | None:
    """The kind that a policy with this observation sees; None: none of them.

    Example:
        >>> kind_of(ObservationSpec.of({"state": 20}))
        'keypoints'
        >>> kind_of(ObservationSpec.of({"state": 2, "image.top": (3, 96, 96)}))
        'image'
        >>> kind_of(ObservationSpec.of({"state": 19}))
    """
    vectors = {name: spec[name].shape[0] for name in spec if name not in spec.images}
    for name, kind in KINDS.items():
        if vectors == kind.vectors and len(spec.images) == int(kind.has_image):
            return name
    return None


def spec_of(kind: str, image_size: int | None, camera: str | None) -> ObservationSpec:
    """What is seen: a kind's vectors and its picture (3, image_size, image_size)."""
    shapes: dict[str, int | tuple[int, ...]] = dict(KINDS[kind].vectors)
    if KINDS[kind].has_image:
        assert image_size is not None
        shapes[f"{IMAGE}{camera}"] = (3, image_size, image_size)
    return ObservationSpec.of(shapes, CONTROL_HZ)


def keypoints_and_agent(obs: Floats, action: Floats) -> tuple[Floats, Floats]:
    """Rows of PushT's published data as its policies see them.

    Args:
        obs: (n, 23) keypoints (18) and state (5: the agent, the block, its angle) side by side; of
            the state the agent alone is seen. Others are left as they are.
        action: (n, 2).
    """
    seen = KEYPOINTS.size + N_AGENT
    return (obs[:, :seen] if obs.shape[1] == KEYPOINTS.size + N_STATE else obs), action


def start_state(seed: int) -> FloatArray:
    """diffusion_policy's start state of a seed: agent (2) and block (2) in px, angle in rad.

    Its test seeds begin at 100000. The angle is normally distributed, and not brought to one turn.

    Example:
        >>> start_state(100000).round(3).tolist()
        [235.0, 124.0, 335.0, 128.0, -0.905]
    """
    draw = np.random.RandomState(seed)
    agent = draw.randint(50, 450), draw.randint(50, 450)
    block = draw.randint(100, 400), draw.randint(100, 400)
    return np.array([*agent, *block, draw.randn() * 2 * np.pi - np.pi])


def keypoints(position: FloatArray, angle: float) -> FloatArray:
    """(9, 2) px in the world, of a block at `position` (2,) px turned by `angle` rad."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.asarray(position + KEYPOINTS @ np.array([[cosine, sine], [-sine, cosine]]))
