"""python tools/export_checkpoint.py FOLDER FILE.ckpt: our policy -> diffusion_policy's format."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

from envs import reference_runner
from policies import export_reference, load_policy

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, file = sys.argv[1:]
    policy = load_policy(source)
    export_reference(policy, file, reference_runner(asdict(policy.config.task)))
    print(f"{Path(file).stat().st_size // 2**20} MiB in {file}")
