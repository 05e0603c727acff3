"""python -m runners.report multirun/<study>."""

from __future__ import annotations

import sys

from .build import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
