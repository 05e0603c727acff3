"""python run.py cache=uniform task=kitchen: what an acceleration does to a diffusion policy."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also when installed as skipstep.run


def main() -> None:
    from runners.cli import run  # not at the top: env workers import this file

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
