"""A plug-in, `plugins=[tests.helpers.picture_plugin]`: the toy with pictures as task=picture.

While it is loaded ResNets are 16 channels wide, so that whole trainings take a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from envs import TASKS, Expert, TrainingDefaults
from policies.encoders import config, flops, resnet
from runners.plugins import register
from tests.helpers.picture import PictureTask, steered


@dataclass
class PictureConfig:
    name: str = "picture"
    size: int = 36
    max_steps: int = 6


class PluggedTask(PictureTask):
    expert: ClassVar[Expert] = Expert(steered, n_obs_steps=2, action_dim=2)
    training: ClassVar[TrainingDefaults] = TrainingDefaults(8, 2, 4, n_steps=30, batch_size=8)

    def __init__(self, config: PictureConfig) -> None:
        super().__init__(size=config.size, max_steps=config.max_steps, success_band=0.0)


NARROW, USUAL = (16, 16, 32, 32), config.WIDTHS


def widths(channels: tuple[int, ...]) -> None:
    for module in (config, flops, resnet):
        module.WIDTHS = channels


widths(NARROW)
entry: tuple[type[Any], type[Any]] = (PictureConfig, PluggedTask)
register(TASKS, "picture", entry)
