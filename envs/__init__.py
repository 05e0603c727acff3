"""Worlds to try a policy in, and the worker processes they run in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import skipstep  # noqa: F401  (the other names of these modules)

from .kitchen import KitchenConfig, KitchenTask
from .libero import LiberoConfig, LiberoTask
from .limits import resolve_n_envs
from .metaworld import MetaworldConfig, MetaworldTask
from .motion import Motion
from .pool import EnvPool, Event
from .pusht import PushTConfig, PushTTask
from .robosuite import (
    CanConfig,
    CanTask,
    LiftConfig,
    LiftTask,
    SquareConfig,
    SquareTask,
    ToolHangConfig,
    ToolHangTask,
    TransportConfig,
    TransportTask,
)
from .task import EnvError, EpisodeScore, Expert, Task, TrainingDefaults
from .video import write_video

__all__ = [
    "TASKS",
    "CanConfig",
    "CanTask",
    "EnvError",
    "EnvPool",
    "EpisodeScore",
    "Event",
    "Expert",
    "KitchenConfig",
    "KitchenTask",
    "LiberoConfig",
    "LiberoTask",
    "LiftConfig",
    "LiftTask",
    "MetaworldConfig",
    "MetaworldTask",
    "Motion",
    "PushTConfig",
    "PushTTask",
    "SquareConfig",
    "SquareTask",
    "Task",
    "ToolHangConfig",
    "ToolHangTask",
    "TrainingDefaults",
    "TransportConfig",
    "TransportTask",
    "make_task",
    "reference_runner",
    "resolve_n_envs",
    "task_in",
    "write_video",
]

TASKS: dict[str, tuple[type[Any], type[Any]]] = {
    "lift": (LiftConfig, LiftTask),
    "kitchen": (KitchenConfig, KitchenTask),
    "pusht": (PushTConfig, PushTTask),
    "can": (CanConfig, CanTask),
    "square": (SquareConfig, SquareTask),
    "transport": (TransportConfig, TransportTask),
    "tool_hang": (ToolHangConfig, ToolHangTask),
    "metaworld": (MetaworldConfig, MetaworldTask),
    "libero": (LiberoConfig, LiberoTask),
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
    task: Task = build(config_class(**cfg))
    return task


def task_in(words: str) -> str | None:
    """The task that a checkpoint's own name of its task speaks of: the longest that is part of it.

    Example:
        >>> task_in("lift_lowdim"), task_in("tool_hang_lowdim"), task_in("uplift")
        ('lift', 'tool_hang', None)
    """
    words = words.lower()
    found = [n for n in TASKS if re.search(rf"(?<![a-z0-9]){re.escape(n)}(?![a-z0-9])", words)]
    return max(found, key=len, default=None)


def reference_runner(info: Mapping[str, Any]) -> dict[str, Any] | None:
    """`Task.reference_runner` of the task that a checkpoint's `info` names; None: of none here."""
    name = task_in(info["name"])
    if name is None:
        return None
    runner: dict[str, Any] | None = TASKS[name][1].reference_runner(info)
    return runner
