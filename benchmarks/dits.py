"""python -m benchmarks.dits: DiTs in the fused engine and in torch, as benchmarks.unets has UNets.

Weights are random float32, modulations among them; the sampler is flow matching by Euler.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch

from benchmarks.unets import measure, parser, render
from benchmarks.writing import check, keep
from policies import DiffusionPolicy, DitConfig, PolicyConfig, SamplerConfig

SIZES = {"4 x 256": (4, 4, 256), "6 x 512 (LeRobot's)": (6, 8, 512)}
OBS, ACTION, HORIZON, TO = 20, 7, 16, 2


def sized(n_layer: int, n_head: int, n_emb: int, steps: int) -> DiffusionPolicy:
    """A DiT with random weights."""
    network = DitConfig(ACTION, HORIZON, TO, OBS, n_layer=n_layer, n_head=n_head, n_emb=n_emb)
    sampler = SamplerConfig("euler", steps, prediction_type="velocity")
    torch.manual_seed(0)
    return DiffusionPolicy(PolicyConfig(network, OBS, ACTION, 8, sampler=sampler)).eval()


def main(argv: Sequence[str]) -> int:
    """0, or 2: a wrong option."""
    words = parser()
    words.prog, words.description = "python -m benchmarks.dits", __doc__
    words.set_defaults(out=Path("multirun/dits"))
    options = words.parse_args(argv)
    try:
        check(options, rounds=1, steps=1, threads=1)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen = {name: sizes for name, sizes in SIZES.items() if sizes[2] <= options.widest}
    found = measure({name: sized(*s, options.steps) for name, s in chosen.items()}, options)
    keep(options.out, "dits", found, render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
