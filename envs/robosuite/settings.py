"""The settings that the tasks of robosuite share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from skipstep.observations import IMAGE, STATE, ObservationSpec

from ..pictures import check_image_size

AUTO, LOW_DIM, PICTURES = "auto", "low_dim", "image"
KINDS = (AUTO, LOW_DIM, PICTURES)


@dataclass
class RobosuiteConfig:
    """Settings of a task of robosuite.

    Attributes:
        abs_action: actions are poses (for each arm position 3, rotation 6, gripper 1), not changes
            of pose (7).
        max_steps: an episode without success ends here.
        env_args: a robomimic HDF5 whose recorded environment arguments are used; if its controller
            is absolute, so are the actions.
        success: "once": an episode succeeds, and ends, at the first step with the task done.
        obs: "low_dim" (the objects and the arms, in numbers), "image" (pictures, and the arms in
            numbers), or "auto": what the policy sees; without one "low_dim".
        cameras: names of the pictures, after "image."; None: the policy's, or the usual ones.
        image_size: width and height of the pictures, px; None: the policy's, or the usual one.
        parts: with pictures, the arms' numbers are arrays of their own (robot0_eef_pos, ...), not
            one; None: as the policy sees them, without one False.
    """

    name: str = ""
    abs_action: bool = False
    max_steps: int = 400
    env_args: str | None = None
    success: str = "once"
    obs: str = AUTO
    cameras: list[str] | None = None
    image_size: int | None = None
    parts: bool | None = None

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"task.max_steps must be at least 1, got {self.max_steps}")
        if self.success != "once":
            raise ValueError(
                f"task.success must be 'once' for {self.name or 'robosuite'}, got {self.success!r}"
            )
        if self.obs not in KINDS:
            raise ValueError(f"task.obs must be one of {', '.join(KINDS)}, got {self.obs!r}")
        check_image_size(self.image_size)

    def seeing(self, spec: ObservationSpec) -> RobosuiteConfig:
        """This for a policy that sees `spec`, where it is not settled; what fits nothing stays."""
        if not spec.images or self.obs == LOW_DIM:
            return self
        names = [name.removeprefix(IMAGE) for name in spec.images]
        sizes = {spec[name].shape[-1] for name in spec.images}
        return replace(
            self,
            obs=PICTURES,
            cameras=self.cameras or names,
            image_size=self.image_size or max(sizes),
            parts=STATE not in spec if self.parts is None else self.parts,
        )
