"""The command skipstep, which is python run.py of a checkout."""

from __future__ import annotations

import gc
import os
import sys

from .names import ROOT

STOPPED = 130


def main() -> None:
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
