"""From a composed configuration to a checked training: the dataset is read, nothing is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from envs import Task, resolve_n_envs
from policies import (
    DatasetError,
    Demonstrations,
    DiffusionPolicy,
    PolicyConfig,
    Windows,
    check_finite,
    split_episodes,
)
from policies.data.datasets import Integers
from policies.data.normalizer import Normalizer
from skipstep.observations import STATE, ObservationSpec

from ..jobs.checkpoint import check_simulator, public, task_of
from ..jobs.chosen import settings_and_logger
from ..jobs.dataset import read_content
from ..jobs.settings import LoggerChoice, SamplerChoice, Settings, UserError, build, digest
from ..store.files import or_nothing, read_result
from .fitted import clipped, fitted
from .initial import in_the_words_of, initial_policy
from .networks import OF_FAMILY, policy_config
from .settings import TrainConfig, Training, fill

# these change what is said about a training; data and init count by their content
OF_THE_REPORT = ("data", "init", "val_every", "checkpoint_every", "log_every", "cache_mb")
OF_THE_SAMPLER = ("clip",)  # counts as the sampler's settings that it becomes
OF_THE_NETWORK = ("family", "network")  # count as the sizes that it has
OF_THE_PROCESS = ("objective",)  # counts as what its policy predicts


@dataclass(frozen=True)
class TrainJob:
    """One checked training.

    Attributes:
        normalizer: fits the training side of the data, or is that of `initial`.
        initial: the policy that it goes on from; None: fresh weights.
    """

    settings: Settings
    task: Task
    runner: Training
    logger: LoggerChoice
    policy_config: PolicyConfig
    data: Demonstrations
    episodes: Integers
    train: Windows
    valid: Windows
    normalizer: Normalizer
    initial: DiffusionPolicy | None
    n_envs: int
    fingerprint: str
    name: str
    config: dict[str, Any]


def prepare_training(cfg: DictConfig, asked: TrainConfig) -> TrainJob:
    """Check a training against its dataset and task.

    Raises:
        UserError, or one of MISTAKES: with one line that names the setting or the file.
    """
    settings, logger = settings_and_logger(cfg)
    task = _checked_task(cfg, asked)
    if asked.data is None:
        asked = replace(asked, data=collected(settings.study, task))
    runner = fill(asked, task)
    data, content = _load(runner, task)
    sampler: SamplerChoice = build(SamplerChoice, cfg.sampler, "sampler")
    config = policy_config(runner, task, sampler)
    initial = initial_policy(runner.init, config) if runner.init else None
    if initial:
        config = in_the_words_of(initial, config)
    chosen = split_episodes(data, runner.val_ratio, runner.seed)
    train, valid = (_windows(data, side, config) for side in chosen)
    if not len(train):
        raise DatasetError(
            f"{data.names[0]}: no episode is long enough for runner.horizon={runner.horizon}"
        )
    values = _numbers(data, chosen[0], config)
    normalizer = initial.normalizer if initial else fitted(runner, values, _images(task))
    clip = clipped(runner, config, normalizer, values)
    config = replace(config, sampler=replace(config.sampler, **clip))
    fingerprint = digest(
        {
            "data": content,
            "task": public(task),
            "policy": config.settings(),
            "runner": _of_weights(runner, settings.device, bool(task.obs_spec.images)),
            "threads": settings.threads,
            "device": torch.device(settings.device).type,
            **({"init": initial.fingerprint()} if initial else {}),
        }
    )
    groups = {"task": public(task), "runner": asdict(runner), "policy": asdict(config)}
    groups["logger"] = asdict(logger)
    return TrainJob(
        settings=settings,
        task=task,
        runner=runner,
        logger=logger,
        policy_config=config,
        data=data,
        episodes=chosen[0],
        train=train,
        valid=valid,
        normalizer=normalizer,
        initial=initial,
        n_envs=_n_envs(settings, runner, task),
        fingerprint=fingerprint,
        name=f"{task.name}_train_s{runner.seed}_{fingerprint}",
        config={**asdict(settings), **groups, "fingerprint": fingerprint},
    )


def _checked_task(cfg: DictConfig, asked: TrainConfig) -> Task:
    """The task, where nothing accelerates and what rollouts need is there."""
    for group in ("cache", "quant"):
        if cfg[group].name != "none":
            raise UserError(f"{group} must be none with runner=train, got {cfg[group].name}")
    task = task_of(cfg.task, {})
    if asked.rollout_every:
        check_simulator(task, f"runner.rollout_every with task={task.name}")
    return task


def _n_envs(settings: Settings, runner: Training, task: Task) -> int:
    """Of rollouts."""
    return resolve_n_envs(
        settings.n_envs,
        runner.rollout_episodes,
        task.memory_mb,
        settings.max_envs,
        settings.policy_batch,
    )


def _windows(data: Demonstrations, episodes: Integers, config: PolicyConfig) -> Windows:
    pads = config.network.n_obs_steps - 1, config.n_action_steps - 1
    return Windows(data, episodes, config.network.horizon, *pads)


def _numbers(
    data: Demonstrations, episodes: Integers, config: PolicyConfig
) -> dict[str, torch.Tensor]:
    """The numbers of some episodes by the names that the normaliser has for them, (n, d) each."""
    seen = data.numbers if config.encoder else {"obs": data.state}
    steps = data.rows(episodes)
    arrays = {**seen, "action": data.action}
    return {field: torch.from_numpy(numbers[steps]) for field, numbers in arrays.items()}


def _images(task: Task) -> ObservationSpec:
    spec = task.obs_spec
    return ObservationSpec({name: spec[name] for name in spec.images})


def _of_weights(runner: Training, device: str, sees_images: bool) -> dict[str, Any]:
    """What of the settings changes the trained weights."""
    others = {*OF_THE_REPORT, *OF_THE_SAMPLER, *OF_THE_NETWORK, *OF_THE_PROCESS}
    for family, names in OF_FAMILY.items():
        others |= set(names) if family != runner.family else set()
    others |= set() if runner.objective == "flow" else {"flow"}
    if not sees_images:
        others.add("encoder")
    counting = {
        k: v for k, v in asdict(runner).items() if k not in others and not k.startswith("rollout_")
    }
    return {**counting, "precision": precision(runner, device)}


def collected(study: str, task: Task) -> str:
    """The dataset of the one finished runner=collect on this task, and world, in the study."""
    meant = "collect", task.name, task.world
    found = []
    for path in sorted(Path("multirun", study).glob("*/result.json")):
        result = or_nothing(read_result, path) or {}
        if (result.get("runner"), result.get("task"), result.get("world", "")) == meant:
            found.append(str(result["dataset"]))
    if len(found) != 1:
        world = f" in {task.world}" if task.world else ""
        raise UserError(
            f"runner.data must name a dataset (HDF5, npz, a LeRobot folder); null takes what "
            f"runner=collect task={task.name}{world} wrote in study={study}, which is "
            + (f"one of {', '.join(found)}" if found else "not there")
        )
    return found[0]


def precision(runner: Training, device: str) -> str:
    """bf16 pays on CUDA; on the CPU autocast is slower than float32 at these sizes."""
    if runner.precision != "auto":
        return runner.precision
    return "bf16" if torch.device(device).type == "cuda" else "fp32"


def _load(runner: Training, task: Task) -> tuple[Demonstrations, str]:
    keys = tuple(runner.obs_keys or ())
    for file in runner.files:
        if not Path(file).exists():
            raise UserError(f"runner.data: no dataset at {file}")
    data, content = read_content(runner.files, runner.kind, keys, task, cache_mb=runner.cache_mb)
    try:
        state, action = task.convert(data.state, data.action)
    except ValueError as error:
        raise DatasetError(f"{', '.join(runner.files)}: {error}") from error
    sizes = {"action": (action, task.action_dim)}
    if STATE in task.obs_spec:
        sizes = {"observation": (state, task.obs_spec[STATE].shape[0]), **sizes}
    for field, (values, dim) in sizes.items():
        if values.shape[1] != dim:
            raise DatasetError(
                f"{data.names[0]}: {field} has {values.shape[1]} numbers, "
                f"task={task.name} needs {dim}"
            )
    data = data.converted(state, action)
    check_finite(data)
    return data, content
