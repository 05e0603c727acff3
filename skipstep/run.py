"""The command skipstep, which is python run.py of a checkout."""

from __future__ import annotations

import gc
import os
import sys

from .names import ROOT

STOPPED = 130


def main() -> None:
    _say_at_once(sys.argv[1:])
    gc.disable()  # until the first job is checked: what is imported stays
    sys.path.insert(0, str(ROOT))  # before what else may be called runners
    try:
        from runners.cli import run  # not at the top: env workers import this file

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while something is imported
        print("interrupted", file=sys.stderr)
        code = STOPPED
    except BrokenPipeError:  # who read our output has gone: `run.py --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _say_at_once(words: list[str]) -> None:
    """A run imports for seconds before it can say anything: what it was asked for comes first."""
    settings = [word for word in words if word not in ("-m", "--multirun")]
    if all("=" in word and not word.startswith("-") for word in settings):
        print(f"checking {' '.join(settings) or 'the defaults'}", flush=True)
