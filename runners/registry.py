"""What a run can be: name -> (settings, what it does, the text that it ends with)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import collect, table
from .job import EvaluateConfig, run_evaluate
from .settings import RunnerConfig

if TYPE_CHECKING:
    from .prepare import Job


class Runner(NamedTuple):
    """One kind of run; its settings are in conf/runner/<name>.yaml."""

    config: type[RunnerConfig]
    run: Callable[[Job, Path], dict[str, Any]]
    render: Callable[[Mapping[str, Any], Path], str]


RUNNERS: dict[str, Runner] = {
    "evaluate": Runner(EvaluateConfig, run_evaluate, table.render),
    "collect": Runner(collect.CollectConfig, collect.run_collect, collect.render),
}
