"""What can be run: name -> its settings, how it is prepared, what runs it and what it ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from .calibrate.run import CalibrateConfig, prepare_calibrate, render_calibrate, run_calibrate
from .collect.prepare import CollectConfig, prepare_collect
from .collect.run import render_collect, run_collect
from .evaluate.run import EvaluateConfig
from .evaluate.shards import render_evaluation, run_evaluation
from .jobs.prepare import MISTAKES, prepare_job
from .jobs.settings import UserError, choose
from .plugins import load
from .search.run import SearchConfig, prepare_search, run_search
from .search.table import render_search
from .show.prepare import ShowConfig, prepare_show
from .show.run import render_show, run_show
from .train.prepare import prepare_training
from .train.run import render_training, run_train
from .train.settings import TrainConfig


class Runner(NamedTuple):
    """One kind of run; `config` is what conf/runner/<name>.yaml holds, with complete defaults."""

    config: type
    prepare: Callable[[DictConfig, Any], Any]
    run: Callable[[Any, Path], dict[str, Any]]
    render: Callable[[Mapping[str, Any], Path], str]


RUNNERS: dict[str, Runner] = {
    "evaluate": Runner(EvaluateConfig, prepare_job, run_evaluation, render_evaluation),
    "collect": Runner(CollectConfig, prepare_collect, run_collect, render_collect),
    "calibrate": Runner(CalibrateConfig, prepare_calibrate, run_calibrate, render_calibrate),
    "train": Runner(TrainConfig, prepare_training, run_train, render_training),
    "search": Runner(SearchConfig, prepare_search, run_search, render_search),
    "show": Runner(ShowConfig, prepare_show, run_show, render_show),
}


def prepare(cfg: DictConfig) -> Any:
    """Check a composed configuration and make its job; nothing is written.

    Raises:
        UserError: with one line that names the setting, the value and what is allowed.
    """
    load(cfg.plugins)  # anew where a launcher's process has not read the command line
    try:
        runner = choose(RUNNERS, cfg.runner, "runner")
        return RUNNERS[runner.name].prepare(cfg, runner)
    except MISTAKES as error:
        raise UserError(error) from error
