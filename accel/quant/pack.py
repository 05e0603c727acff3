"""Packs of the openpi fork of DuQuant: a layer's transform in an .npz, read, written and made.

A pack permutes a layer's inputs, rotates them in blocks, and rotates its outputs in blocks before
quantising: x -> x[perm] R_in, W -> R_out W[:, perm] R_in, y -> y R_out. The fork makes all of it
from the weight alone; codes and scales it computes anew at each start.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from skipstep.npz_files import open_npz
from skipstep.whole_files import write_whole

from .codes import top
from .linear import QuantisedLinear
from .transform import Transform, hadamard, is_permutation, orthogonality_error, rotate

WRONG = (OSError, EOFError, BadZipFile, KeyError, TypeError, ValueError, ArithmeticError)
CLOSE = 1e-3  # share by which a scale may differ from that of the layer's weight


@dataclass(frozen=True, eq=False)
class Pack:
    """One layer's transform.

    Attributes:
        perm: (K,) int64, or None.
        inputs: (K / B, B, B) float64, orthogonal.
        outputs: (N / B', B', B') float64, orthogonal, or None.
        scale: (N,) float64, of the weight with its inputs transformed, for 4 bits.
        smooth: the fork's lambda, which changes nothing there.
    """

    perm: Tensor | None
    inputs: Tensor
    outputs: Tensor | None
    scale: Tensor
    smooth: float = 0.0

    def transform(self, restore: bool = True) -> Transform:
        """What a quantised layer does; restore: with the rotation of the outputs."""
        width = self.inputs.shape[0] * self.inputs.shape[1]
        back = self.outputs if restore else None
        return Transform(width, perm=self.perm, second=self.inputs, back=back)

    def check(self, name: str, weight: Tensor) -> None:
        """Refuse another layer's pack.

        Raises:
            ValueError: other sizes, or a scale that is not of this weight (N, K).
        """
        width, outputs = self.inputs.shape[0] * self.inputs.shape[1], len(self.scale)
        if (outputs, width) != tuple(weight.shape):
            raise ValueError(
                f"layer {name} has a weight of {tuple(weight.shape)}, the pack one of "
                f"{(outputs, width)}"
            )
        own = _scale(self.transform(restore=False).weight(weight.detach().cpu().double()))
        if not bool(((own - self.scale).abs() <= CLOSE * own).all()):
            raise ValueError(f"it was made from another weight than that of layer {name}")

    @classmethod
    def fit(
        cls, weight: Tensor, block: int, permute: bool = True, turn: int = 1, smooth: float = 0.15
    ) -> Pack:
        """The fork's own, from a weight (N, K), K a multiple of the block.

        Channels by energy, the largest and the smallest in turn, then the principal axes of each
        block.

        turn: block of the outputs' rotation, which divides N; 1 for none.
        """
        w = weight.detach().cpu().double()
        perm = _interleaved(w.square().mean(0)) if permute else None
        moved = w if perm is None else w[:, perm]
        blocks = moved.T.reshape(-1, block, len(w))
        inputs = torch.linalg.svd(blocks, full_matrices=True)[0]
        outputs = torch.linalg.svd(w.view(-1, turn, w.shape[1]))[0] if turn > 1 else None
        return cls(perm, inputs, outputs, _scale(rotate(moved, inputs)), smooth)

    @classmethod
    def of(cls, layer: QuantisedLinear, weight: Tensor) -> Pack:
        """A quantised layer's transform, with the weight (N, K) that it was made from.

        Raises:
            ValueError: it has a scaling or a rotation before the permutation, or padded channels,
                for which a pack has no place.
        """
        spec = layer.spec
        early = spec.first != "none" and spec.permute
        if spec.smooth or early or spec.in_features != layer.width:
            raise ValueError(
                f"layer {layer.name} cannot be written as a pack, which holds one permutation and "
                "one rotation of whole blocks: quant.alpha must be null, and quant.permute false "
                "unless the layer was made from packs"
            )
        rotation = layer.second if spec.second != "none" else layer.first
        n_blocks = layer.width // spec.block
        inputs = _blocks(torch.eye(spec.block) if rotation is None else rotation, n_blocks)
        perm = None if layer.perm is None else layer.perm.cpu().long()
        outputs = None
        if layer.rows is not None:
            outputs = _blocks(layer.rows, spec.out_features // spec.rows)
        moved = rotate(_permuted(weight.detach().cpu().double(), perm), inputs)
        return cls(perm, inputs, outputs, _scale(moved))


def pack_path(folder: str | Path, layer: str) -> Path:
    """Where the fork keeps the pack of a layer.

    Example:
        >>> pack_path("packs", "policy.dit.blocks.0/fc1").as_posix()
        'packs/policy.dit.blocks.0_fc1.npz'
    """
    return Path(folder) / (re.sub(r"[^A-Za-z0-9_.-]", "_", layer).replace("..", ".") + ".npz")


def read_pack(path: str | Path) -> Pack:
    """Read a pack of the fork, or of `write_pack`.

    Raises:
        ValueError: not a pack, channels that the blocks do not divide, no permutation, or rotations
            that are not orthogonal; the message names the file.
    """
    try:
        return _parse(Path(path))
    except WRONG as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def write_pack(pack: Pack, path: str | Path) -> Path:
    """Write what the fork reads: float32 rotations block by block, and its settings as JSON."""
    path = Path(path)
    arrays: dict[str, Any] = {"weight_scale": pack.scale.float().numpy()}
    if pack.perm is not None:
        arrays["perm"] = pack.perm.numpy()
    for key, short, blocks in (("R_in", "Rin", pack.inputs), ("R_out", "Rout", pack.outputs)):
        if blocks is not None:
            arrays |= {f"{short}_{b}": r.float().numpy() for b, r in enumerate(blocks)}
            arrays[f"{key}_blocks"] = np.arange(len(blocks), dtype=np.int64)
    block = pack.inputs.shape[1]
    meta = {
        "in_features": len(pack.inputs) * block,
        "out_features": len(pack.scale),
        "block_size": block,
        "block_out_size": block if pack.outputs is None else pack.outputs.shape[1],
        "enable_permute": pack.perm is not None,
        "lambda_smooth": pack.smooth,
    }
    held = io.BytesIO()
    np.savez(held, meta=json.dumps(meta), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, held.getvalue())
    return path


def _parse(path: Path) -> Pack:
    with open_npz(path) as held:
        meta = json.loads(str(held["meta"]))
        inputs = _rotations(held, "Rin", int(meta["in_features"]), int(meta["block_size"]))
        outputs = None
        if "R_out_blocks" in held:
            block = int(meta.get("block_out_size", meta["block_size"]))
            outputs = _rotations(held, "Rout", int(meta["out_features"]), block)
        perm = torch.from_numpy(held["perm"]).long() if "perm" in held else None
        scale = torch.from_numpy(held["weight_scale"]).double()
    width = int(meta["in_features"])
    if perm is not None and not is_permutation(perm, width):
        raise ValueError(f"perm must be a permutation of {width} channels")
    return Pack(perm, inputs, outputs, scale, float(meta.get("lambda_smooth", 0.0)))


def _rotations(held: Mapping[str, Any], name: str, channels: int, block: int) -> Tensor:
    names = [f"{name}_{b}" for b in range(channels // block)]
    if channels % block or not all(n in held and held[n].shape == (block, block) for n in names):
        raise ValueError(f"{name}: must have a rotation for every whole block of {block}")
    found = torch.from_numpy(np.stack([held[n] for n in names])).double()
    if not orthogonality_error(found) < 1e-4:  # NaN is not
        raise ValueError(f"{name}: rotations must be orthogonal")
    # stored in float32; the nearest orthogonal matrix keeps the transform exactly invariant
    left, _, right = torch.linalg.svd(found)
    nearest: Tensor = left @ right
    return nearest


def _permuted(w: Tensor, perm: Tensor | None) -> Tensor:
    return w if perm is None else w[:, perm]


def _blocks(rotation: Tensor, n: int) -> Tensor:
    """(B, B) for all blocks, or one each, -> (n, B, B) float64; Hadamard's without rounding."""
    size = rotation.shape[-1]
    if rotation.dim() == 3:
        return rotation.detach().cpu().double()
    shared = hadamard(size) if torch.allclose(rotation.cpu().double(), hadamard(size)) else rotation
    return shared.cpu().double().repeat(n, 1, 1)


def _interleaved(energy: Tensor) -> Tensor:
    """(K,) -> (K,) int64: the largest, the smallest, the second largest, the second smallest."""
    order, n = torch.argsort(energy, descending=True), len(energy)
    found = torch.empty(n, dtype=torch.int64)
    found[::2], found[1::2] = order[: n - n // 2], order[n - n // 2 :].flip(0)
    return found


def _scale(w: Tensor) -> Tensor:
    """(N, K) -> (N,): the largest magnitude of a row over the largest code of 4 bits."""
    return w.abs().amax(1).clamp(min=1e-8) / top(4)
