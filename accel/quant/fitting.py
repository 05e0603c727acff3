"""One linear layer, quantised with the method that its calibration likes best."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .config import DuQuantConfig
from .hashes import sha256
from .linear import QuantisedLinear
from .pack import pack_path, read_pack
from .report import LayerReport
from .spec import LinearSpec
from .statistics import LayerStatistics, stable_seed
from .transform import Transform, crest, fit, power_of_two

METHODS = ("rtn", "smooth", "duquant")  # the cheapest first
FEW = 64  # tokens below which errors do not tell the methods apart
MOST_INPUTS = 2**17  # whose products of codes add up to less than 2^31


def fit_layer(
    name: str,
    linear: nn.Linear,
    statistics: LayerStatistics,
    config: DuQuantConfig,
    bits: int,
    share: float,
    given: Transform | None = None,
) -> tuple[QuantisedLinear, LayerReport]:
    """A layer and what there is to say of it.

    Where the calibration saw only a few of its tokens, method auto is duquant: a scaling fitted to
    the very tokens that it is judged by looks better on them than it is.

    Args:
        name: in its model.
        linear: stays as it is.
        statistics: of its inputs.
        config: of the quantisation.
        bits: of its weight.
        share: of the multiply-adds of the model.
        given: a transform to take instead of a fitted one; method is duquant then.
    """
    rows = statistics.rows.to(linear.weight.device)
    layers: dict[str, QuantisedLinear] = {}
    errors: dict[str, float] = {}
    methods = METHODS if config.method == "auto" else (config.method,)
    for method in methods if given is None else ("duquant",):
        layers[method] = fit_linear(name, linear, statistics, config, method, bits, given)
        errors[method] = relative_error(layers[method], linear, rows)
    few = config.method == "auto" and len(rows) < FEW
    method = "duquant" if few else min(errors, key=lambda m: errors[m])
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
        share=share,
    )
    return layer, report


def fit_linear(
    name: str,
    linear: nn.Linear,
    statistics: LayerStatistics,
    config: DuQuantConfig,
    method: str,
    bits: int,
    given: Transform | None = None,
) -> QuantisedLinear:
    """One layer by one method: rtn does not transform, smooth only scales, `given` is taken."""
    weight = linear.weight.detach()
    if not all(bool(p.isfinite().all()) for p in linear.parameters()):
        raise ValueError(f"layer {name}: its weight and bias must be finite")
    if linear.in_features > MOST_INPUTS:
        raise ValueError(
            f"layer {name} must have at most {MOST_INPUTS} inputs, got {linear.in_features}"
        )
    transform = given or fit(
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
    turn = 1
    if given is not None:
        turn = 1 if given.back is None else given.back.shape[-1]
    elif config.row_rot == "restore" and method == "duquant":
        turn = power_of_two(linear.out_features, config.block)
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
        rows=turn,
        weight_bits=bits,
        activation_bits=config.activation_bits,
        activation=config.activation,
        activation_clip=config.activation_clip,
        source=sha256({"weight": weight}),
        rows_kind="hadamard" if transform.back is None else "stored",
    )
    return QuantisedLinear.from_weight(spec, transform, weight, linear.bias, config.clip)


def _kind(rotation: Tensor | None) -> str:
    return "none" if rotation is None else "hadamard" if rotation.dim() == 2 else "stored"


def packed_transform(
    folder: str | Path, name: str, linear: nn.Linear, config: DuQuantConfig
) -> Transform:
    """The transform of a layer's pack in a folder.

    Raises:
        ValueError: no such pack, a damaged one, one of another weight or block; it names the file.
    """
    path = pack_path(folder, name)
    if not path.exists():
        raise ValueError(f"{path}: there is no pack of layer {name}; exclude it, or see make_packs")
    pack = read_pack(path)
    block = pack.inputs.shape[1]
    if block != config.block:
        raise ValueError(f"{path}: quant.block must be {block}, got {config.block}")
    try:
        pack.check(name, linear.weight)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return pack.transform(config.row_rot == "restore")


@torch.no_grad()
def relative_error(layer: QuantisedLinear, linear: nn.Linear, rows: Tensor) -> float:
    """||layer(x) - linear(x)|| / ||linear(x) less its bias||."""
    exact = rows.double() @ linear.weight.double().T
    bias = 0 if linear.bias is None else linear.bias.double()
    error = (layer.plain(rows.float()).double() - bias - exact).norm() / exact.norm().clamp(
        min=1e-30
    )
    return float(error)


def n_bytes(module: nn.Module) -> int:
    """Of the tensors that are stored."""
    tensors = [t for t in module.state_dict().values() if isinstance(t, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)
