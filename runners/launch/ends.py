"""How runs end that did not come to their end: told to, or for what the machine has not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra._internal.core_plugins import basic_launcher
from hydra.errors import CompactHydraException

from ..errors import disk_words


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, as clusters send it before they take a machine away, ends a run as Ctrl-C does.

    The first one; a second ends the process where it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class EndedError(CompactHydraException):
    """What the machine has too little of, or has not: one line, exit code 1."""


@contextmanager
def ended_in_one_line() -> Iterator[None]:
    """A full disk, and a world that cannot be made, say so without a traceback.

    The traceback of the latter is in the run's folder.
    """
    try:
        yield
    except EndedError:
        raise
    except Exception as error:
        if words := disk_words(error):
            again = "run the same command again, when there is room, to go on"
            raise EndedError(f"{words}; {again}") from error
        from envs import EnvError  # a command that runs nothing needs no tasks

        if isinstance(error, EnvError):
            raise EndedError(" ".join(str(error).split())) from error
        raise


@contextmanager
def jobs_ended_in_one_line() -> Iterator[None]:
    """The same of what Hydra writes into a job's folder, before and after the job itself."""
    launcher: Any = basic_launcher
    plain = launcher.run_job

    def run_job(*arguments: Any, **settings: Any) -> Any:
        with ended_in_one_line():
            return plain(*arguments, **settings)

    launcher.run_job = run_job
    try:
        yield
    finally:
        launcher.run_job = plain
