"""How runs end that did not come to their end: told to, or without room on the disk."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

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


class NoRoomError(CompactHydraException):
    """The disk takes no more: one line, exit code 1."""


@contextmanager
def no_room_in_one_line() -> Iterator[None]:
    """What fails within for a full disk says so, and how to go on, without a traceback."""
    try:
        yield
    except Exception as error:
        if words := disk_words(error):
            again = "run the same command again, when there is room, to go on"
            raise NoRoomError(f"{words}; {again}") from error
        raise
