"""A model's linear layers, quantised: each with the method that its calibration likes best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .config import DuQuantConfig, QuantConfig
from .hashes import fingerprint, sha256, stored
from .linear import LinearSpec, QuantisedLinear
from .replacement import replace_layers
from .selection import linears, select
from .statistics import LayerStatistics, Statistics, stable_seed
from .transform import crest, fit

METHODS = ("rtn", "smooth", "duquant")  # the cheapest first
MOST_INPUTS = 2**17  # whose products of codes add up to less than 2^31


@dataclass(frozen=True)
class LayerReport:
    """One quantised layer, for people and for the file.

    Attributes:
        shape: (N, K).
        method: that was chosen; `errors` has what the others would have cost.
        arithmetic: integer or simulated.
        simulated: which part is not executed as it is named; "" where all is.
        error: relative error of its outputs on the calibration's tokens.
        errors: {method: error} of all methods tried.
        crest_before, crest_after: mean over tokens of max / rms of its inputs, transformed or not.
        drift: largest over smallest of the calls' peaks.
        bytes_before, bytes_after: of its tensors.
        share: of the multiply-adds of all linear layers of the model, in the calibration.
    """

    name: str
    shape: tuple[int, int]
    method: str
    weight_bits: int
    activation_bits: int
    arithmetic: str
    simulated: str
    error: float
    errors: dict[str, float]
    crest_before: float
    crest_after: float
    drift: float
    bytes_before: int
    bytes_after: int
    share: float


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantised model and how it came about.

    Attributes:
        model: a copy, in eval mode.
        fingerprint: of the model it was made from.
        statistics: digest of those it was fitted to.
    """

    model: nn.Module
    config: DuQuantConfig
    layers: tuple[LayerReport, ...]
    fingerprint: str
    statistics: str

    def digest(self) -> str:
        """Hash of what the quantised model computes with."""
        return sha256(stored(self.model))[:16]


def plan(model: nn.Module, statistics: Statistics, config: QuantConfig) -> tuple[LayerReport, ...]:
    """What `quantize` would do, layer by layer; it takes as long. Raises as `quantize` does."""
    return tuple(report for _, report in _fitted(model, statistics, config.full()))


def quantize(model: nn.Module, statistics: Statistics, config: QuantConfig) -> Quantized:
    """A quantised copy of a model; `model` stays as it is, and shares nothing with the copy.

    Args:
        model: any module in eval mode; its nn.Linear layers and those in nn.MultiheadAttention.
        statistics: of this very model, see `collect`.
        config: a config of `QUANTIZERS`.

    Raises:
        ValueError: training mode, statistics of another model, a pattern that does nothing, no
            layer to quantise, one that the calibration never called, or weights that are not
            finite.

    Example:
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
    layers, reports, settings = {}, [], config.full()
    for layer, report in _fitted(model, statistics, settings):
        layers[report.name] = layer
        reports.append(report)
    replaced = replace_layers(model, layers, statistics.attentions)
    return Quantized(replaced, settings, tuple(reports), fingerprint(model), statistics.digest())


def _fitted(
    model: nn.Module, statistics: Statistics, config: DuQuantConfig
) -> Iterator[tuple[QuantisedLinear, LayerReport]]:
    if model.training:
        raise ValueError("the model must be in eval mode: call model.eval() first")
    statistics.check(model)
    chosen = select(model, statistics, config)
    found = linears(model, statistics.attentions)
    total = sum(s.n_tokens * found[n].weight.numel() for n, s in statistics.layers.items())
    for name, bits in tqdm(chosen.items(), "quantising", unit="layer", disable=None):
        yield _fit_layer(name, found[name], statistics.layers[name], config, bits, total)


def _fit_layer(
    name: str,
    linear: nn.Linear,
    statistics: LayerStatistics,
    config: DuQuantConfig,
    bits: int,
    total: int,
) -> tuple[QuantisedLinear, LayerReport]:
    rows = statistics.rows.to(linear.weight.device)
    layers: dict[str, QuantisedLinear] = {}
    errors: dict[str, float] = {}
    for method in METHODS if config.method == "auto" else (config.method,):
        layers[method] = fit_linear(name, linear, statistics, config, method, bits)
        errors[method] = relative_error(layers[method], linear, rows)
    method = min(errors, key=lambda m: errors[m])
    layer = layers[method]
    peaks = statistics.peaks
    report = LayerReport(
        name=name,
        shape=(linear.out_features, linear.in_features),
        method=method,
        weight_bits=bits,
        activation_bits=config.activation_bits,
        arithmetic=layer.spec.arithmetic,
        simulated=layer.spec.simulated,
        error=errors[method],
        errors=errors,
        crest_before=crest(rows),
        crest_after=crest(layer.transformed(rows)),
        drift=max(peaks) / max(min(peaks), 1e-12),
        bytes_before=n_bytes(linear),
        bytes_after=n_bytes(layer),
        share=statistics.n_tokens * linear.weight.numel() / total,
    )
    return layer, report


def fit_linear(
    name: str,
    linear: nn.Linear,
    statistics: LayerStatistics,
    config: DuQuantConfig,
    method: str,
    bits: int,
) -> QuantisedLinear:
    """One layer by one method: rtn does not transform, smooth only scales."""
    weight = linear.weight.detach()
    if not all(bool(p.isfinite().all()) for p in linear.parameters()):
        raise ValueError(f"layer {name}: its weight and bias must be finite")
    if linear.in_features > MOST_INPUTS:
        raise ValueError(
            f"layer {name} must have at most {MOST_INPUTS} inputs, got {linear.in_features}"
        )
    transform = fit(
        statistics.rows,
        statistics.maximum,
        weight.cpu(),
        block=config.block,
        alpha=None if method == "rtn" else config.alpha,
        rotation=config.rotation if method == "duquant" else None,
        permute=config.permute,
        steps=config.greedy_steps,
        generator=torch.Generator().manual_seed(stable_seed(config.seed, name)),
    )
    rotate_rows = config.row_rot == "restore" and method == "duquant"
    spec = LinearSpec(
        in_features=linear.in_features,
        out_features=linear.out_features,
        bias=linear.bias is not None,
        method=method,
        block=config.block,
        smooth=transform.smooth is not None,
        first=_kind(transform.first),
        permute=transform.perm is not None,
        second=_kind(transform.second),
        rows=_power_of_two(linear.out_features, config.block) if rotate_rows else 1,
        weight_bits=bits,
        activation_bits=config.activation_bits,
        activation=config.activation,
        activation_clip=config.activation_clip,
        source=sha256({"weight": weight}),
    )
    return QuantisedLinear.from_weight(spec, transform, weight, linear.bias, config.clip)


def _kind(rotation: Tensor | None) -> str:
    return "none" if rotation is None else "hadamard" if rotation.dim() == 2 else "stored"


def _power_of_two(n: int, most: int) -> int:
    """The largest one that divides n and is at most `most`."""
    return min(n & -n, most)


@torch.no_grad()
def relative_error(layer: QuantisedLinear, linear: nn.Linear, rows: Tensor) -> float:
    """||layer(x) - linear(x)|| / ||linear(x) less its bias||."""
    exact = rows.double() @ linear.weight.double().T
    bias = 0 if linear.bias is None else linear.bias.double()
    error = (layer(rows).double() - bias - exact).norm() / exact.norm().clamp(min=1e-30)
    return float(error)


def n_bytes(module: nn.Module) -> int:
    """Of the tensors that are stored."""
    tensors = [t for t in module.state_dict().values() if isinstance(t, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)
