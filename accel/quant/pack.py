"""Transforms from the .npz packs of the openpi fork of DuQuant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from .transform import Transform


def read_pack(path: str | Path) -> Transform:
    """The permutation and the rotation of a layer's inputs: x -> x[perm] R_in.

    What a pack says of the outputs (a rotation that is undone) and of weight scales (for 4 bits,
    which the fork itself does not use) is left out.

    Raises:
        ValueError: inputs that the block does not divide, or rotations that are not orthogonal; the
            message names the file.
    """
    with np.load(path, allow_pickle=False) as pack:
        meta = json.loads(str(pack["meta"]))
        width, block = int(meta["in_features"]), int(meta["block_size"])
        perm = torch.from_numpy(pack["perm"]).long() if "perm" in pack else None
        names = [f"Rin_{b}" for b in range(width // block)]
        if width % block or not all(n in pack and pack[n].shape == (block, block) for n in names):
            raise ValueError(f"{path}: must have a rotation for every whole block of {block}")
        rotation = torch.from_numpy(np.stack([pack[name] for name in names])).double()
    if perm is not None and not torch.equal(perm.sort().values, torch.arange(width)):
        raise ValueError(f"{path}: perm must be a permutation of {width} channels")
    # stored in float32; the nearest orthogonal matrix keeps the transform exactly invariant
    left, sizes, right = torch.linalg.svd(rotation)
    if (sizes - 1).abs().max() > 1e-4:
        raise ValueError(f"{path}: its rotations must be orthogonal")
    return Transform(width, perm=perm, second=left @ right)
