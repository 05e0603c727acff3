"""Hostile files: each seed damages one file of a kind and has it read by a process that is watched.

What must hold: nothing in a file is executed, no signal, no more than 20 s, no more than 1 GB above
the idle process; refused in one line, or loaded as written.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .records import Row

PROJECT = Path(__file__).resolve().parents[2]
MOST_SECONDS, MOST_MB = 20.0, 1024.0
START_S = 120.0
NAMES = (
    *("checkpoint", "policy folder", "LeRobot policy", "plan", "calibration", "quantised"),
    *("npz data", "HDF5 data", "LeRobot data", "run folder", "resumed run", "W&B folder"),
)


class Child:
    """A process that reads files of one kind, see `child`."""

    def __init__(self, kind: str, first: int, last: int, folder: Path) -> None:
        words = [sys.executable, "-m", "tools.chaos.child", kind, str(first), str(last)]
        paths = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        self.said = (folder / "stderr").open("wb")
        (folder / "here").mkdir()
        self.process = subprocess.Popen(
            [*words, str(folder)],
            cwd=folder / "here",
            stdout=subprocess.PIPE,
            stderr=self.said,
            env={**os.environ, "PYTHONPATH": paths},
        )
        self.rest = b""

    def lines(self) -> Iterator[dict[str, Any] | None]:
        """What it says; None where it has said nothing for too long, and was killed."""
        assert self.process.stdout
        patience = START_S
        while True:
            there, _, _ = select.select([self.process.stdout], [], [], patience)
            if not there:
                self.process.kill()
                yield None
                return
            patience = MOST_SECONDS
            got = os.read(self.process.stdout.fileno(), 2**16)
            if not got:
                return
            *whole, self.rest = (self.rest + got).split(b"\n")
            for line in whole:
                yield json.loads(line)

    def end(self) -> int:
        self.said.close()
        if self.process.stdout:
            self.process.stdout.close()
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait()


def run_kind(kind: str, first: int, last: int, until: float = float("inf")) -> Row:
    """Trials of one kind; a child that dies costs the seed at which it died, and is replaced."""
    row, seed = Row(kind, first, last), first
    while seed < last and time.monotonic() < until:
        with tempfile.TemporaryDirectory(prefix="chaos-") as name:
            child = Child(kind, seed, last, Path(name))
            begun, timed_out = None, False
            for line in child.lines():
                if line is None:
                    timed_out = True
                elif "begun" in line:
                    begun = line["begun"]
                elif "seed" in line:
                    begun, seed = None, line["seed"] + 1
                    _count(row, line)
                if time.monotonic() > until and begun is None:
                    break
            code = child.end()
            if begun is not None:
                last_words = (Path(name) / "stderr").read_text(errors="replace")[-300:]
                said = f"it died (exit code {code}): {last_words}"
                died = "no answer in 20 s" if timed_out else said
                row.count(begun, "finding", died)
                seed = begun + 1
            elif seed < last and time.monotonic() < until:
                raise RuntimeError(f"{kind}: no trial began: {(Path(name) / 'stderr').read_text()}")
    row.last = seed
    return row


def _count(row: Row, line: dict[str, Any]) -> None:
    outcome, said = line["outcome"], line["said"]
    if line["mb"] > MOST_MB:
        outcome, said = "finding", f"it took {line['mb']:.0f} MB: {said}"
    elif line["seconds"] > MOST_SECONDS:
        outcome, said = "finding", f"it took {line['seconds']:.1f} s: {said}"
    row.count(line["seed"], outcome, said, seconds=line["seconds"], MB=line["mb"])


def run(
    first: int, last: int, until: float = float("inf"), kinds: tuple[str, ...] = NAMES
) -> list[Row]:
    """A range of seeds of every kind."""
    rows = [run_kind(kind, first, last, until) for kind in kinds]
    return [row for row in rows if row.trials]
