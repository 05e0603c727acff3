"""A job that is prepared once between the check of a command line and its run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from accel.kernels.facts import Fact


@dataclass(frozen=True)
class _Kept:
    config: dict[str, Any]
    job: Any
    facts: dict[Fact, bool]
    words: list[logging.LogRecord]


class Prepared:
    """The job that was prepared last, for as long as nothing else has run.

    A run is prepared when its command line is checked, when Hydra asks for the name of its folder,
    and when it begins. A whole sweep is not kept: a job may read the results of those before it.
    What a preparation has to say is logged when the job is taken, into the log of its run.

    Args:
        prepare: makes a job of a composed configuration.
    """

    def __init__(self, prepare: Callable[[DictConfig], Any]) -> None:
        self._prepare = prepare
        self._kept: _Kept | None = None

    def job(self, cfg: DictConfig) -> Any:
        """The job of this configuration, which is kept."""
        from accel.kernels.facts import hold, noting  # a command that runs nothing needs no torch

        own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        config: Any = OmegaConf.to_container(own, resolve=True)
        kept = self._kept
        if kept is None or kept.config != config or not hold(kept.facts):
            self.forget()
            with noting() as facts, _heard() as words:
                kept = _Kept(config, self._prepare(cfg), facts, words)
            self._kept = kept
        return kept.job

    def take(self, cfg: DictConfig) -> Any:
        """The job of this configuration, which is about to run."""
        job = self.job(cfg)
        self.forget()
        return job

    def forget(self) -> None:
        """Keep nothing: what runs next may write what the job has read."""
        if self._kept:
            _say(self._kept.words)
        self._kept = None


@contextmanager
def _heard() -> Iterator[list[logging.LogRecord]]:
    """What is logged within it, which nobody else hears; of a failure everybody does."""
    root, words = logging.getLogger(), _Ear()
    before, level = root.handlers, root.level
    root.handlers = [words]
    root.setLevel(min(level, logging.INFO))
    failed = True
    try:
        yield words.records
        failed = False
    finally:
        root.handlers = before
        root.setLevel(level)
        if failed:
            _say(words.records)


class _Ear(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _say(records: list[logging.LogRecord]) -> None:
    for record in records:
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
