"""python tools/import_checkpoint.py SOURCE FOLDER: reference checkpoint -> our format, float16."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

from policies import load_policy, save_policy

if __name__ == "__main__":
    source, folder = sys.argv[1:]
    save_policy(load_policy(source), folder)
    print(sum(p.stat().st_size for p in Path(folder).iterdir()) // 2**20, "MiB in", folder)
