"""Whether a run goes on or how it ended, written so that nothing wrong is left to stand."""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skipstep.whole_files import write_whole

from .names import STATUS, TRACEBACK

log = logging.getLogger(__name__)


def dump(record: dict[str, Any]) -> str:
    """JSON with one line per top-level key."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in record.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def note_failure(folder: Path) -> None:
    """Keep the traceback of what is being handled, unless the run kept it or the disk is full."""
    if not (folder / TRACEBACK).exists():
        try:
            write_whole(folder / TRACEBACK, traceback.format_exc())
        except OSError as error:
            log.warning("the traceback could not be written: %s", error)


def write_somehow(path: Path, text: str) -> None:
    """Write by rename; where the disk is full, over what is there; else there is no file.

    An old status that goes on standing there would be wrong.
    """
    try:
        write_whole(path, text)
    except OSError as error:
        log.warning("%s could not be written: %s", path, error)
        try:
            with path.open("r+") as file:
                file.write(text)
                file.truncate()
        except OSError:
            path.unlink(missing_ok=True)


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """status.json while a run goes on and after it, and the traceback of a failure."""
    started = time.time()

    def status(name: str) -> None:
        now = {"status": name, "pid": os.getpid(), "started": started, "updated": time.time()}
        write_somehow(folder / STATUS, dump(now))

    (folder / TRACEBACK).unlink(missing_ok=True)
    status("running")
    try:
        yield
    except KeyboardInterrupt:
        status("interrupted")
        raise
    except BaseException:
        note_failure(folder)
        status("failed")
        raise
    status("finished")
