"""The settings of LIBERO's tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from skipstep.observations import IMAGE, ObservationSpec

from ..pictures import check_image_size, check_no_pictures
from ..robosuite.settings import AUTO, KINDS, LOW_DIM, PICTURES
from .observations import CAMERAS, USUAL_CAMERAS, USUAL_SIZE
from .suites import SUITES, world_in


@dataclass
class LiberoConfig:
    """Settings of LIBERO; what is "auto" or None is read from the checkpoint where there is one.

    Attributes:
        suite: of the world, see `suites.SUITES`.
        index: of the world in its suite, from 0.
        obs: "image" (pictures, and hand and gripper in numbers: 8), "low_dim" (those numbers alone,
            which say nothing of the things), or "auto": what the policy sees; without one "image".
        cameras: the pictures' names, after "image."; None without a policy: image (of the scene)
            and image2 (of the hand).
        image_size: width and height of the pictures, px; None without a policy: 256.
        turned: pictures are turned by 180 degrees, as openpi's and LeRobot's policies see them;
            else they are as robosuite renders them, upside down, as in LIBERO's own files. None:
            as the checkpoint says, and turned where it says nothing.
        settle_steps: steps without motion at the start, in which things come to rest; they are no
            part of the episode.
        max_steps: an episode without success ends here; None: openpi's number for the suite.
    """

    name: str = "libero"
    suite: str = "libero_spatial"
    index: int = 0
    obs: str = AUTO
    cameras: list[str] | None = None
    image_size: int | None = None
    turned: bool | None = None
    settle_steps: int = 10
    max_steps: int | None = None

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"task.suite must be one of {', '.join(SUITES)}, got {self.suite!r}")
        n_worlds = SUITES[self.suite].n_worlds
        if not 0 <= self.index < n_worlds:
            raise ValueError(
                f"task.index must be from 0 to {n_worlds - 1} in {self.suite}, got {self.index}"
            )
        if self.obs not in KINDS:
            raise ValueError(f"task.obs must be one of {', '.join(KINDS)}, got {self.obs!r}")
        for camera in self.cameras or ():
            if camera not in CAMERAS:
                raise ValueError(
                    f"task.cameras must be some of {', '.join(CAMERAS)}, got {camera!r}"
                )
        if self.settle_steps < 0:
            raise ValueError(f"task.settle_steps must be at least 0, got {self.settle_steps}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"task.max_steps must be at least 1, got {self.max_steps}")
        check_image_size(self.image_size)

    def seeing(self, spec: ObservationSpec, said: str = "") -> LiberoConfig:
        """This for a policy that sees `spec`, where it is not settled; what fits nothing stays.

        Args:
            spec: of the policy.
            said: the name that its checkpoint has for its task.

        Example:
            >>> seen = ObservationSpec.of({"state": 8, "image.image": (3, 128, 128)})
            >>> config = LiberoConfig().seeing(seen)
            >>> config.obs, config.cameras, config.image_size, config.turned
            ('image', ['image'], 128, True)
        """
        turned = self.turned if self.turned is not None else world_in(said)[2] is not False
        settled = replace(self, turned=turned)
        if not spec.images or self.obs == LOW_DIM:
            return replace(settled, obs=LOW_DIM) if self.obs == AUTO else settled
        return replace(
            settled,
            obs=PICTURES,
            cameras=self.cameras or [name.removeprefix(IMAGE) for name in spec.images],
            image_size=self.image_size or max(spec[name].shape[-1] for name in spec.images),
        )

    def resolved(self) -> LiberoConfig:
        """This with nothing left open.

        Raises:
            ValueError: a setting of pictures where none is seen.
        """
        obs = PICTURES if self.obs == AUTO else self.obs
        cameras, size = self.cameras, self.image_size
        if obs == PICTURES:
            cameras, size = cameras or list(USUAL_CAMERAS), size or USUAL_SIZE
        else:
            check_no_pictures({"cameras": cameras, "image_size": size}, obs)
        return replace(
            self,
            obs=obs,
            cameras=cameras,
            image_size=size,
            turned=self.turned is not False,
            max_steps=self.max_steps or SUITES[self.suite].max_steps,
        )
