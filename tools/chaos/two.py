"""Two processes that are given one command at once, and a clock that goes back.

What must hold: one of the two says that the other runs, in one line with exit code 2, or waits and
finds the run finished; the run ends as one that was left alone.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from . import runs
from .records import Row

BACKWARDS = """\
import random, time
_real, _rng = time.time, random.Random({seed})
time.time = lambda: _real() - _rng.choice((0, 60, 86400, 10**8))
"""


def both(calm: runs.Calm, folder: Path, seed: int) -> str:
    """What is wrong with two at once."""
    first = runs.start(calm.command, folder)
    time.sleep(random.Random(f"two {seed}").random() * 8)
    second = runs.start(calm.command, folder)
    codes = sorted(runs.ended(process) for process in (first, second))
    words = runs.said(folder)
    if codes not in ([0, 0], [0, 2]) or "Traceback" in words:
        return f"exit codes {codes}: {words[-300:]}"
    if codes == [0, 2] and "another process is running in" not in words:
        return f"no line says why: {words[-300:]}"
    return calm.differs(folder)


def clock(calm: runs.Calm, folder: Path, seed: int) -> str:
    """What is wrong where `time.time` goes back between any two calls."""
    site = folder.with_name(f"{folder.name}.site")
    site.mkdir()
    (site / "sitecustomize.py").write_text(BACKWARDS.format(seed=seed))
    code = runs.ended(runs.start(calm.command, folder, PYTHONPATH=f"{site}:{runs.PROJECT}"))
    return f"exit code {code}: {runs.said(folder)[-300:]}" if code else calm.differs(folder)


def run(first: int, last: int, until: float = float("inf")) -> list[Row]:
    """Each seed is one of both."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        calm = runs.Calm(Path(name))
        for what, trial in (("two processes", both), ("a clock that goes back", clock)):
            row, seed = Row(what, first, last), first
            while seed < last and time.monotonic() < until:
                folder = Path(name, f"{what} {seed}".replace(" ", "_"))
                folder.mkdir()
                try:
                    wrong = trial(calm, folder, seed)
                except AssertionError as error:
                    wrong = str(error)
                row.count(seed, "finding" if wrong else "as undisturbed", wrong)
                seed += 1
            row.last = seed
            rows.append(row)
    return [row for row in rows if row.trials]
