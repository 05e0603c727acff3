"""The task and the policy that a configuration names, read and checked; nothing is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from envs import TASKS, Task, make_task, task_in
from policies import DiffusionPolicy, load_policy
from skipstep.observations import STATE, ObservationSpec

from ..places import PROJECT
from .settings import CheckpointChoice, SamplerChoice, UserError, build

log = logging.getLogger(__name__)

SAID_BY_CHECKPOINT = ("abs_action", "robot_noise_ratio")


def public(task: Task) -> dict[str, Any]:
    """Everything of a task that changes an episode."""
    attributes: dict[str, Any] = vars(task)
    values = {
        k: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v
        for k, v in attributes.items()
    }
    return {"name": task.name, **values}


def policy_and_task(
    node: DictConfig, sampler: SamplerChoice, device: str, *, simulated: bool = True
) -> tuple[DiffusionPolicy, Task, str]:
    """What fits together; `simulated` is False where no environment will be made."""
    _check_task(node)
    if node.checkpoint is None:
        raise UserError(
            f"task.checkpoint must be text, got null: the folder or file of a policy for "
            f"task={node.name}, trained elsewhere (docs/bring.md) or by runner=train"
        )
    path = locate(str(node.checkpoint))
    policy = load(path, node)
    info = policy.config.task
    _check_trained_for(info.name, path, node)
    said = {key: getattr(info, key) for key in ("name", *SAID_BY_CHECKPOINT)}
    task = task_of(node, said, policy.obs_spec)
    if other := task.other_world(info.name):
        _refuse_unless_foreign(f"task.checkpoint {path} was trained for {other}", node)
    check_fit(policy, task, path)
    if simulated:
        check_simulator(task, f"task={task.name}")
    chosen = sampler.over(policy.config.sampler)
    if chosen != policy.config.sampler:
        policy = policy.with_sampler(chosen)
    return policy.to(device), task, path


def check_fit(policy: DiffusionPolicy, task: Task, path: str) -> None:
    """Refuse what a policy sees and does where the task shows or wants something else.

    Raises:
        UserError: one line that names everything in which the observations differ.
    """
    seen, shown = policy.obs_spec, task.obs_spec
    sizes = {"action_dim": (policy.action_dim, task.action_dim)}
    if seen.single and shown.single:
        lengths = seen[STATE].shape[0], shown[STATE].shape[0]
        sizes = {"obs_dim": lengths, **sizes}
    for name, (has, needs) in sizes.items():
        if has != needs:
            raise UserError(
                f"task.checkpoint {path} has {name} {has}, task={task.name} has {needs}"
            )
    if wrong := seen.missing_from(shown):
        raise UserError(
            f"task.checkpoint {path} does not fit the observations of task={task.name}: "
            + "; ".join(wrong)
        )


def _check_trained_for(said: str, path: str, node: DictConfig) -> None:
    """Refuse the checkpoint of another task, unless the user insists; it may say nothing."""
    own = task_in(said)
    if not said or own == node.name:
        return
    allowed = f"task={own}" if own else f"none of {', '.join(TASKS)}"
    trained = f"task.checkpoint {path} was trained for {said}, not for task={node.name}"
    _refuse_unless_foreign(trained, node, f"it fits {allowed}, and ")


def _refuse_unless_foreign(trained: str, node: DictConfig, fits: str = "") -> None:
    if not node.get("allow_foreign"):
        raise UserError(f"{trained}; {fits}task.allow_foreign=true insists")
    log.warning("%s: task.allow_foreign=true lets it run all the same", trained)


def _check_task(node: DictConfig) -> None:
    if node.get("name") not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {node.get('name')!r}")


def task_of(
    node: DictConfig, said_by_checkpoint: Mapping[str, Any], seen: ObservationSpec | None = None
) -> Task:
    """What the checkpoint says of the task is not to be contradicted.

    Args:
        node: of the task, with the checkpoint's settings.
        said_by_checkpoint: None where it does not say.
        seen: what the checkpoint's policy sees, which a task may fit itself to; None: no policy.
    """
    _check_task(node)
    own = {f.name for f in fields(CheckpointChoice)}
    values = {k: v for k, v in node.items() if k not in own}
    config_class, kind = TASKS[node.name]
    for key in SAID_BY_CHECKPOINT:
        if key not in {f.name for f in fields(config_class)}:
            continue
        said, asked = said_by_checkpoint.get(key), values.get(key)
        if asked is None:
            values.pop(key, None)
            if said is not None:
                values[key] = said
        elif key == "abs_action" and said is not None and said != asked:
            raise UserError(
                f"task.abs_action={asked} contradicts the checkpoint, which says {said}"
            )
    config = build(config_class, values, "task")
    if seen is not None:
        config = kind.fitted(config, seen, said_by_checkpoint.get("name") or "")
    return make_task(**asdict(config))


def check_simulator(task: Task, setting: str) -> None:
    for package in task.requires:
        if find_spec(package) is None:
            raise UserError(f"{setting} needs {package}: {task.install}")


def load(path: str, node: DictConfig) -> DiffusionPolicy:
    own = {f.name: node[f.name] for f in fields(CheckpointChoice) if f.name in node}
    choice: CheckpointChoice = build(CheckpointChoice, own, "task")
    file = Path(path)
    stamps = (
        [(p.name, p.stat().st_mtime_ns) for p in sorted(file.iterdir())] if file.is_dir() else []
    )
    stamp = (file.stat().st_mtime_ns, *stamps) if file.exists() else ()
    try:
        return _load(path, choice.weights, choice.trust, choice.pick, stamp)
    except FileNotFoundError as error:
        raise UserError(f"task.checkpoint: {error}") from error


@lru_cache(maxsize=4)
def _load(path: str, weights: str, trust: bool, pick: str, stamp: object) -> DiffusionPolicy:
    return load_policy(path, weights, trust=trust, pick=pick)


def locate(path: str) -> str:
    """A relative checkpoint is looked for here, then beside run.py."""
    return str(PROJECT / path) if not Path(path).exists() and (PROJECT / path).exists() else path
