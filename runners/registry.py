"""What can be run: name -> its settings, how it is prepared, what runs it and what it ends with."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from omegaconf import DictConfig

from .errors import UserError
from .jobs.runner import Runner
from .plugins import load

RUNNERS: dict[str, Runner | str] = {  # "module:name" is imported when it is asked for
    "evaluate": "runners.evaluate.shards:EVALUATE",
    "collect": "runners.collect.run:COLLECT",
    "calibrate": "runners.calibrate.run:CALIBRATE",
    "train": "runners.train.run:TRAIN",
    "search": "runners.search.run:SEARCH",
    "show": "runners.show.run:SHOW",
    "serve": "runners.serve.run:SERVE",
}


def runner_of(name: str) -> Runner:
    """The runner of this name."""
    found = RUNNERS[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = getattr(import_module(module), attribute)
        assert isinstance(found, Runner)
    return found


def prepare(cfg: DictConfig) -> Any:
    """Check a composed configuration and make its job; nothing is written.

    Raises:
        UserError: with one line that names the setting, the value and what is allowed.
    """
    load(cfg.plugins)  # anew where a launcher's process has not read the command line
    name = cfg.runner.get("name")
    if name not in RUNNERS:
        raise UserError(f"runner must be one of {', '.join(RUNNERS)}, got {name!r}")
    from .jobs.prepare import MISTAKES  # not at the top: a command that runs nothing needs no torch
    from .jobs.settings import build

    try:
        runner = runner_of(name)
        return runner.prepare(cfg, build(runner.config, cfg.runner, "runner"))
    except MISTAKES as error:
        raise UserError(error) from error
