"""Transforms from the .npz packs of the openpi fork of DuQuant."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from .transform import Transform

WRONG = (OSError, EOFError, BadZipFile, KeyError, TypeError, ValueError, ArithmeticError)


def read_pack(path: str | Path) -> Transform:
    """The permutation and the rotation of a layer's inputs: x -> x[perm] R_in.

    What a pack says of the outputs (a rotation that is undone) and of weight scales (for 4 bits,
    which the fork itself does not use) is left out.

    Raises:
        ValueError: not a pack, inputs that the block does not divide, or rotations that are not
            orthogonal; the message names the file.
    """
    try:
        return _transform(Path(path))
    except WRONG as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def _transform(path: Path) -> Transform:
    with np.load(path, allow_pickle=False) as pack:
        meta = json.loads(str(pack["meta"]))
        width, block = int(meta["in_features"]), int(meta["block_size"])
        perm = torch.from_numpy(pack["perm"]).long() if "perm" in pack else None
        names = [f"Rin_{b}" for b in range(width // block)]
        if width % block or not all(n in pack and pack[n].shape == (block, block) for n in names):
            raise ValueError(f"must have a rotation for every whole block of {block}")
        rotation = torch.from_numpy(np.stack([pack[name] for name in names])).double()
    if perm is not None and not torch.equal(perm.sort().values, torch.arange(width)):
        raise ValueError(f"perm must be a permutation of {width} channels")
    if not (rotation @ rotation.mT - torch.eye(block)).abs().max() < 1e-4:
        raise ValueError("its rotations must be orthogonal")
    # stored in float32; the nearest orthogonal matrix keeps the transform exactly invariant
    left, _, right = torch.linalg.svd(rotation)
    return Transform(width, perm=perm, second=left @ right)
