"""A model's linear layers, quantised: each with the method that its calibration likes best."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from tqdm import tqdm

from .config import DuQuantConfig, QuantConfig
from .execution import check_backend, execute, quantised_layers, watch
from .fitting import FEW, METHODS, fit_layer, packed_transform
from .hashes import fingerprint, sha256, stored
from .linear import QuantisedLinear
from .replacement import replace_layers
from .report import LayerReport, LeftOut, left_out, say, shares_of
from .selection import linears, reasons, select
from .slower import rows_of_calls, warn_slower
from .statistics import Statistics

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantised model and how it came about.

    Attributes:
        model: a copy, in eval mode.
        fingerprint: of the model it was made from.
        statistics: digest of those it was fitted to.
        left_out: linear layers that stayed as they were, those with the most multiply-adds first.
    """

    model: nn.Module
    config: DuQuantConfig
    layers: tuple[LayerReport, ...]
    fingerprint: str
    statistics: str
    left_out: tuple[LeftOut, ...] = ()

    def digest(self) -> str:
        """Hash of what the quantised model computes with."""
        return sha256(stored(self.model))[:16]

    def idle(self) -> tuple[str, ...]:
        """Quantised layers whose module was not called yet, for whoever runs the model by hand.

        Engines of this project compute the layers of a policy without calling their modules.
        """
        return tuple(name for name, layer in quantised_layers(self.model).items() if not layer.ran)


def plan(model: nn.Module, statistics: Statistics, config: QuantConfig) -> tuple[LayerReport, ...]:
    """What `quantize` would do, layer by layer; it takes as long. Raises as `quantize` does."""
    return tuple(report for _, report in _fitted(model, statistics, config.full(), None))


def quantize(
    model: nn.Module,
    statistics: Statistics,
    config: QuantConfig,
    backend: str = "auto",
    packs: str | Path | None = None,
) -> Quantized:
    """A quantised copy of a model; `model` stays as it is, and shares nothing with the copy.

    Args:
        model: any module in eval mode; its nn.Linear layers and those in nn.MultiheadAttention.
        statistics: of this very model, see `collect`.
        config: a config of `QUANTIZERS`.
        backend: what computes the layers when the copy is called: native (C, on a CPU), torch (the
            reference), or auto: native where it can run; engines choose for themselves.
        packs: a folder of packs of the openpi fork; their transforms are taken instead of fitted
            ones, see pack.py.

    Raises:
        ValueError: training mode, statistics of another model, a pattern that does nothing, no
            layer to quantise, one that the calibration never called, or weights that are not
            finite.

    Example:
        >>> import torch
        >>> from accel.quant import RtnConfig, collect
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).eval()
        >>> statistics = collect(model, [(torch.randn(32, 64),)], n_batches=1)
        >>> small = quantize(model, statistics, RtnConfig(weight_bits=4, include=("",)))
        >>> [(layer.name, layer.weight_bits) for layer in small.layers]
        [('0', 4), ('2', 4)]
        >>> tuple(small.model(torch.randn(1, 64)).shape)
        (1, 64)
    """
    check_backend(backend)
    layers, reports, settings = {}, [], config.full()
    for layer, report in _fitted(model, statistics, settings, packs):
        layers[report.name] = layer
        reports.append(report)
    found = linears(model, statistics.attentions)
    missing = left_out(model, found, reasons(found, settings), statistics)
    say(reports, missing)
    few = [name for name in layers if len(statistics.layers[name].rows) < FEW]
    if few and settings.method == "auto" and packs is None:
        log.warning(
            "%d layers saw fewer than %d tokens in the calibration, too few to choose between %s: "
            "they get duquant, for example %s; give accel.collect more batches",
            *(len(few), FEW, ", ".join(METHODS), few[0]),
        )
    replaced = replace_layers(model, layers, statistics.attentions)
    watch(replaced)
    kernels = execute(replaced, backend)
    if backend != "torch":
        warn_slower(quantised_layers(replaced), kernels, rows_of_calls(statistics))
    return Quantized(
        replaced, settings, tuple(reports), fingerprint(model), statistics.digest(), missing
    )


def _fitted(
    model: nn.Module, statistics: Statistics, config: DuQuantConfig, packs: str | Path | None
) -> Iterator[tuple[QuantisedLinear, LayerReport]]:
    if model.training:
        raise ValueError("the model must be in eval mode: call model.eval() first")
    statistics.check(model)
    chosen = select(model, statistics, config)
    found = linears(model, statistics.attentions)
    shares = shares_of(found, statistics)
    for name, bits in tqdm(chosen.items(), "quantising", unit="layer", disable=None):
        given = None if packs is None else packed_transform(packs, name, found[name], config)
        seen = statistics.layers[name]
        yield fit_layer(name, found[name], seen, config, bits, shares[name], given)
