"""A single run whose configuration is composed already: Hydra would compose it twice more."""

from __future__ import annotations

from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import run_and_report
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime, configure_log
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig

from .ends import ended_in_one_line


class Composed(Hydra):
    """Hydra, for one job: it logs, and writes `.hydra/`, as if it had composed the words itself.

    Args:
        cfg: of the words, Hydra's own settings with it; it is run once.
        loader: what has composed it.
    """

    def __init__(self, cfg: DictConfig, loader: ConfigLoader) -> None:
        super().__init__(JobRuntime.instance().get("name"), loader)
        self._cfg = cfg
        if cfg.hydra.mode is None:  # as Hydra adds it to the words of a run
            cfg.hydra.mode = RunMode.RUN
            cfg.hydra.overrides.hydra.append("hydra.mode=RUN")

    @classmethod
    def here(cls, cfg: DictConfig) -> Composed:
        """Of what has just been composed."""
        return cls(cfg, GlobalHydra.instance().config_loader())

    def compose_config(self, *_: Any, **__: Any) -> DictConfig:
        configure_log(self._cfg.hydra.hydra_logging, self._cfg.hydra.verbose)
        return self._cfg

    def start(self, job: TaskFunction) -> None:
        """Run it; one that fails is reported as Hydra does, by SystemExit."""
        GlobalHydra.instance().initialize(self)
        try:
            run_and_report(lambda: self._run(job))
        finally:
            GlobalHydra.instance().clear()

    def _run(self, job: TaskFunction) -> None:
        with ended_in_one_line():  # the job does so itself; this is of what Hydra writes beside it
            self.run(config_name=None, task_function=job, overrides=[])
