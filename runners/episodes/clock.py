"""Where the time of a run goes: start-up, the policy, waiting for simulators, latency."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

from ..store.files import or_nothing, read_time

_jobs = count()


@dataclass
class Clock:
    """Seconds of a run; what the process did before its first episode is start-up.

    startup_s: from the start of the process (of the job, for a later job of a sweep) to the first
        observation of a simulator, imports and the building of simulators included.
    policy_s: the policy acted in episodes.
    simulator_wait_s: nothing could be done before a simulator answered.
    latency_s: the measurement of latency.
    """

    startup_s: float = 0.0
    policy_s: float = 0.0
    simulator_wait_s: float = 0.0
    latency_s: float = 0.0
    began: float | None = field(default=None, repr=False)

    def started(self) -> None:
        """The first episode begins: what came before was start-up; later calls do nothing."""
        if self.began is not None:
            self.startup_s += time.perf_counter() - self.began
            self.began = None

    @contextmanager
    def acting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.policy_s += time.perf_counter() - start

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Waiting for simulators; before the first observation it is part of the start-up."""
        start, starting = time.perf_counter(), self.began is not None
        yield
        self.started()
        if not starting:
            self.simulator_wait_s += time.perf_counter() - start

    @contextmanager
    def measuring(self) -> Iterator[None]:
        self.started()
        start = time.perf_counter()
        yield
        self.latency_s += time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """For result.json."""
        return {k: round(v, 3) for k, v in asdict(self).items() if k != "began"}

    @classmethod
    def resume(cls, path: Path) -> Clock:
        """Go on from the seconds that an earlier process left, starting now."""
        earlier = or_nothing(read_time, path) or {}
        known = {name: earlier[name] for name in cls.__dataclass_fields__ if name in earlier}
        return cls(**known | {"began": job_start()})


def job_start() -> float:
    """`perf_counter` when this job began: the first one of a process began with the process."""
    return time.perf_counter() - (0.0 if next(_jobs) else process_age_s())


def process_age_s() -> float:
    """Seconds since this process was started (proc_pid_stat(5), field 22; Linux only)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / ticks_per_s
