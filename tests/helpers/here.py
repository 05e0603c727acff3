"""The command line in this process, which has imported what a process of its own would again."""

from __future__ import annotations

import io
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from runners import cli


def run_here(folder: Path, *words: str, code: int = 0) -> str:
    """Give the command in this folder; what it said, on both streams. It must end with `code`."""
    said = io.StringIO()
    with chdir(folder), redirect_stdout(said), redirect_stderr(said):
        with mock.patch.object(sys, "argv", ["run.py"]):
            ended = cli.run(words)
    assert ended == code, said.getvalue()
    return said.getvalue()
