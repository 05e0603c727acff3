"""Worlds to try a policy in, and the worker processes they run in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from .kitchen.task import KitchenConfig, KitchenTask
from .lift.task import LiftConfig, LiftTask
from .limits import resolve_n_envs
from .motion import Motion
from .pool import EnvPool, Event
from .task import EnvError, EpisodeScore, Task
from .video import write_video

__all__ = [
    "TASKS",
    "EnvError",
    "EnvPool",
    "EpisodeScore",
    "Event",
    "KitchenConfig",
    "KitchenTask",
    "LiftConfig",
    "LiftTask",
    "Motion",
    "Task",
    "make_task",
    "resolve_n_envs",
    "write_video",
]

TASKS: dict[str, tuple[type[Any], Callable[[Any], Task]]] = {
    "lift": (LiftConfig, LiftTask),
    "kitchen": (KitchenConfig, KitchenTask),
}


def make_task(name: str, **cfg: Any) -> Task:
    """Make a task from its name and the fields of its config that differ from the defaults.

    Example:
        >>> task = make_task("kitchen", max_steps=100)
        >>> task.obs_dim, task.action_dim, task.max_steps
        (60, 9, 100)
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    config_class, build = TASKS[name]
    allowed = [field.name for field in fields(config_class)]
    for key in cfg:
        if key not in allowed:
            raise ValueError(f"task {name} has {', '.join(allowed)}, got {key!r}")
    return build(config_class(**cfg))
