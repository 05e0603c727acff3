"""Folders of packs of the openpi fork: taken by `quantize`, written from a model."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from .config import DuQuantConfig, QuantConfig
from .duquant import Quantized
from .execution import quantised_layers
from .hashes import fingerprint
from .pack import Pack, pack_path, write_pack
from .selection import choose, linears, usual_attentions
from .transform import power_of_two

log = logging.getLogger(__name__)


def make_packs(
    model: nn.Module, folder: str | Path, config: QuantConfig | None = None
) -> list[Path]:
    """Write the fork's own packs of the layers that a configuration chooses, from their weights.

    Args:
        model: whose layers they are; stays as it is.
        folder: a file a layer, named as the fork names them.
        config: its include, exclude, block, permute and row_rot count; None: the fork's setting,
            block 16, permute, row_rot=restore.

    Raises:
        ValueError: as `quantize` of patterns, or channels that the block does not divide.

    Example:
        >>> import tempfile, torch
        >>> from accel.quant import DuQuantConfig, collect, make_packs, quantize
        >>> config = DuQuantConfig(weight_bits=4, row_rot="restore", include=("",))
        >>> model = nn.Sequential(nn.Linear(64, 64)).eval()
        >>> statistics = collect(model, [(torch.randn(80, 64),)], n_batches=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print([path.name for path in make_packs(model, folder, config)])
        ...     small = quantize(model, statistics, config, packs=folder)
        ['0.npz']
        >>> small.layers[0].method, small.layers[0].error < 0.2
        ('duquant', True)
    """
    settings = (config or DuQuantConfig(row_rot="restore")).full()
    found = linears(model, usual_attentions(model))
    written = []
    for name in choose(found, settings):
        weight, block = found[name].weight, settings.block
        if weight.shape[1] % block:
            raise ValueError(
                f"layer {name} has {weight.shape[1]} inputs, which quant.block={block} does not "
                "divide: a pack has whole blocks; exclude it"
            )
        turn = power_of_two(len(weight), block) if settings.row_rot == "restore" else 1
        pack = Pack.fit(weight, block, settings.permute, turn)
        written.append(write_pack(pack, pack_path(folder, name)))
    log.info("wrote %d packs to %s", len(written), folder)
    return written


def write_packs(quantised: Quantized, model: nn.Module, folder: str | Path) -> list[Path]:
    """Write the transforms of a quantised model as packs.

    Args:
        quantised: made from packs, or with alpha null and permute false.
        model: that it was made from, for the scales.
        folder: a file a layer.

    Raises:
        ValueError: another model, or a transform for which a pack has no place; nothing is written.
    """
    if fingerprint(model) != quantised.fingerprint:
        raise ValueError("model must be the one that was quantised, its weights differ")
    layers = quantised_layers(quantised.model)
    found = linears(model, usual_attentions(model))
    packs = {name: Pack.of(layer, found[name].weight) for name, layer in layers.items()}
    written = [write_pack(pack, pack_path(folder, name)) for name, pack in packs.items()]
    log.info("wrote %d packs to %s", len(written), folder)
    return written
