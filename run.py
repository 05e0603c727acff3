"""python run.py cache=uniform task=kitchen: what an acceleration does to a diffusion policy."""

from __future__ import annotations

from skipstep.run import main

if __name__ == "__main__":
    main()
