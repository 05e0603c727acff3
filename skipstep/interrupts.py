"""Ctrl-C and SIGTERM, held back until what must not be cut in two is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupted_after() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of what is inside, and interrupt it then.

    Outside the main thread, where signals never arrive, nothing has to wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def later(number: int, frame: object) -> None:
        arrived.append(number)

    before = {n: signal.signal(n, later) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])
