"""What can be run: name -> its settings, what runs it, how it is prepared and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from . import table
from .job import run_evaluate
from .prepare import MISTAKES, prepare_policy
from .prepare_train import prepare_training
from .settings import EvaluateConfig, UserError, choose
from .train import render_training, run_train
from .train_settings import TrainConfig


class Runner(NamedTuple):
    """A runner; `config` is what conf/runner/<name>.yaml holds, with complete defaults."""

    config: type
    run: Callable[[Any, Path], dict[str, Any]]
    render: Callable[[Mapping[str, Any], Path], str]
    prepare: Callable[[DictConfig, Any], Any] = prepare_policy


RUNNERS: dict[str, Runner] = {
    "evaluate": Runner(EvaluateConfig, run_evaluate, table.render),
    "train": Runner(TrainConfig, run_train, render_training, prepare_training),
}


def prepare(cfg: DictConfig) -> Any:
    """Check a composed configuration and make its job; nothing is written.

    Raises:
        UserError: with one line that names the setting, the value and what is allowed.
    """
    try:
        runner = choose(RUNNERS, cfg.runner, "runner")
        return RUNNERS[runner.name].prepare(cfg, runner)
    except MISTAKES as error:
        raise UserError(error) from error
