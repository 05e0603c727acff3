"""python tools/export_checkpoint.py FOLDER FILE.ckpt: our policy -> diffusion_policy's format."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

from policies import export_reference, load_policy

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, file = sys.argv[1:]
    export_reference(load_policy(source), file)
    print(f"{Path(file).stat().st_size // 2**20} MiB in {file}")
