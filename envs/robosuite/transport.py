"""Transport: two Panda arms bring a hammer from one bin to another, and trash out of its way."""

from __future__ import annotations

from dataclasses import dataclass

from .made import Made
from .settings import RobosuiteConfig
from .task import RobosuiteTask

TABLES = {
    "tables_boundary": [0.8, 1.2, 0.05],
    "table_friction": [1.0, 5e-3, 1e-4],
    "bin_size": [0.3, 0.3, 0.15],
}


@dataclass
class TransportConfig(RobosuiteConfig):
    """Settings of Transport, see `RobosuiteConfig`."""

    name: str = "transport"
    max_steps: int = 700


class TransportTask(RobosuiteTask):
    """Success is the hammer in the target bin and the cube in the trash bin."""

    name = "transport"
    config_class = TransportConfig
    made = Made("TwoArmTransport", TABLES, n_arms=2, env_configuration="single-arm-opposed")
    objects = 41
    usual_cameras = (
        *("shouldercamera0", "shouldercamera1"),
        *("robot0_eye_in_hand", "robot1_eye_in_hand"),
    )
    memory_mb = 1000
    instruction = "Bring the hammer to the other arm's bin, and the trash out of it."
