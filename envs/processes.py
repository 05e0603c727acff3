"""The processes of workers: what they start with, how they end, and whether one hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from .worker import ONE_THREAD, WAITING

GRACE_S = 1.0
EXIT_S = 5.0


@contextlib.contextmanager
def calm_forkserver() -> Iterator[None]:
    """What the fork server starts with, its workers inherit: one calm thread, deaf to Ctrl-C.

    Numpy's BLAS reads its thread count while it is imported, before any code of ours runs there.
    """
    calm = {**ONE_THREAD, WAITING: os.environ.get(WAITING, "passive")}
    before = {name: os.environ.get(name) for name in calm}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(calm)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end(processes: list[ForkServerProcess]) -> None:
    """Join all, by harder means the longer it takes."""
    for patience, harder in ((GRACE_S, "terminate"), (GRACE_S, "kill"), (EXIT_S, "kill")):
        deadline = time.monotonic() + patience
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        processes = [p for p in processes if p.is_alive()]
        for process in processes:
            getattr(process, harder)()


def seconds_of_cpu(pid: int) -> float:
    """What a process has had so far, 0 where that is not known (Linux says it, others do not)."""
    return _state(pid)[1]


def owed(pid: int, before_s: float, patience_s: float) -> float:
    """Seconds of CPU that a silent process is still to get before it is taken for one that hangs.

    On a busy machine it may have had less than its time. One that sleeps or was stopped is owed
    nothing, and nor is one that ran all the time.

    Args:
        pid: of the process.
        before_s: `seconds_of_cpu` when it was asked.
        patience_s: of CPU, that its answer may take.
    """
    state, used_s = _state(pid)
    return max(0.0, patience_s - (used_s - before_s)) if state == "R" else 0.0


def _state(pid: int) -> tuple[str, float]:
    """Its letter (R: runs, or waits for a CPU) and its seconds of CPU, see proc_pid_stat(5)."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
        return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return "", 0.0
