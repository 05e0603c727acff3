"""Quantised models on disk: one safetensors file with a JSON header; no pickle.

It holds the codes and what was not quantised, and no weight that was. A tensor that a model has in
several places is held once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..persist import check_digest, read_header, write_tensors
from .attention import Attention
from .checks import check_finite, check_layer, spec_of
from .config import EARLIER_LAYERS, LAYERS, DuQuantConfig, QuantConfig
from .duquant import Quantized
from .execution import check_backend, execute, quantised_layers, watch
from .hashes import fingerprint, sha256, stored
from .linear import QuantisedLinear
from .replacement import replace_layers
from .report import LayerReport, LeftOut
from .selection import linears
from .slower import warn_slower

log = logging.getLogger(__name__)

SCHEMA = "skipstep-quant/1"
KEYS = {
    "schema",
    "config",
    "fingerprint",
    "statistics",
    "attentions",
    "specs",
    "layers",
    "digest",
}
OPTIONAL = {"left_out"}  # files of earlier versions have none
EXTRA = "_extra_state"
ROWS = 16  # of the calls that a loaded model is timed with


def save_quantized(quantised: Quantized, path: str | Path) -> None:
    """Write a quantised model; the same model gives the same bytes."""
    modules = dict(quantised.model.named_modules())
    places = aliases(quantised.model)
    held = {n: t for n, t in stored(quantised.model).items() if places.get(n, n) == n}
    tensors = {n: t.detach().cpu().clone() for n, t in held.items()}
    header = {
        "schema": SCHEMA,
        "config": asdict(quantised.config),
        "fingerprint": quantised.fingerprint,
        "statistics": quantised.statistics,
        "attentions": {n: m.cross for n, m in modules.items() if isinstance(m, Attention)},
        "specs": {n: asdict(m.spec) for n, m in modules.items() if isinstance(m, QuantisedLinear)},
        "layers": [asdict(report) for report in quantised.layers],
        "left_out": [asdict(layer) for layer in quantised.left_out],
        "digest": sha256(tensors),
    }
    write_tensors(Path(path), tensors, header)
    log.info(
        "weights of %d layers are quantised once: codes written to %s", len(quantised.layers), path
    )


def aliases(model: nn.Module) -> dict[str, str]:
    """{name of a stored tensor: the first name it has}, for models that share layers or weights."""
    first: dict[int, str] = {}
    found = model.state_dict(keep_vars=True).items()
    return {n: first.setdefault(id(t), n) for n, t in found if isinstance(t, Tensor)}


def load_quantized(
    path: str | Path,
    model: nn.Module,
    config: QuantConfig | None = None,
    check_source: bool = True,
    statistics: str | None = None,
    backend: str = "auto",
) -> Quantized:
    """Read what `save_quantized` wrote into a copy of a model of that architecture.

    Args:
        path: of the file.
        model: stays as it is; on the device where the copy shall be.
        config: refuse a file that was made with other settings.
        check_source: refuse a file that was made from other weights than the model has; without
            it, `model` only gives the architecture.
        statistics: refuse a file that was fitted to others than those with this digest.
        backend: as of `quantize`.

    Raises:
        ValueError: no such file, another schema, a damaged one, other settings, other weights or
            statistics, or another architecture; the message names the file.
    """
    path = Path(path)
    check_backend(backend)
    try:
        header = read_header(path, SCHEMA, KEYS, OPTIONAL)
        made_with = DuQuantConfig(**header["config"])
        if config is not None:
            refuse_difference(made_with, config.full())
        if check_source and fingerprint(model) != header["fingerprint"]:
            raise ValueError(_difference(header, model))
        if statistics not in (None, header["statistics"]):
            raise ValueError("it was fitted to other statistics: quantise anew with these")
        tensors = dict(load_file(path))
        check_digest(header, sha256(tensors))
        found = _restore(header, made_with, tensors, model)
    except (
        *(OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError),
        *(AttributeError, AssertionError, OverflowError),
    ) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    log.info(
        "weights of %d layers were quantised once: their codes are read from %s",
        len(found.layers),
        path,
    )
    watch(found.model)
    kernels = execute(found.model, backend)
    if backend != "torch":
        warn_slower(quantised_layers(found.model), kernels, ROWS)
    return found


def _difference(header: Mapping[str, Any], model: nn.Module) -> str:
    """Where a model is another than the one that a file was made from."""
    found, specs = linears(model, header["attentions"]), header["specs"]
    out = (
        "pass the model it was made from, quantise this one, or take its codes (check_source=False)"
    )
    missing = [name for name in specs if name not in found]
    if missing:
        return f"it is of another model: this one has no layer {missing[0]}; {out}"
    for name, spec in specs.items():
        sizes = found[name].out_features, found[name].in_features
        if sizes != (spec["out_features"], spec["in_features"]):
            its = spec["out_features"], spec["in_features"]
            return f"it is of another model: its layer {name} is {its}, this model's {sizes}; {out}"
    other = [
        n for n, s in specs.items() if sha256({"weight": found[n].weight.detach()}) != s["source"]
    ]
    where = (
        f"layer {other[0]} differs, {len(other)} of {len(specs)} do"
        if other
        else ("what was not quantised differs")
    )
    return f"it was made from other weights than this model's ({where}); {out}"


def refuse_difference(made_with: DuQuantConfig, asked: DuQuantConfig) -> None:
    """Raises ValueError with the first setting that differs."""
    mine, theirs = asdict(asked), asdict(made_with)
    if theirs["include"] == (EARLIER_LAYERS,) and mine["include"] == (LAYERS,):
        theirs["include"] = mine["include"]
    for key, value in mine.items():
        if theirs[key] != value:
            raise ValueError(
                f"quant.{key} must be {value!r}, the file was made with {theirs[key]!r}"
            )


def _restore(
    header: Mapping[str, Any], config: DuQuantConfig, state: dict[str, Any], model: nn.Module
) -> Quantized:
    specs = header["specs"].items()
    layers = {name: QuantisedLinear(spec_of(name, spec, state)) for name, spec in specs}
    check_finite(state)
    for name, layer in layers.items():
        check_layer(name, layer, state)
    modules = dict(model.named_modules())
    wrong = [
        n for n in header["attentions"] if not isinstance(modules.get(n), nn.MultiheadAttention)
    ]
    if wrong:
        raise ValueError(f"the model has no attention {min(wrong)}")
    replaced = replace_layers(model, layers, header["attentions"])
    present = quantised_layers(replaced)
    missing = [name for name in layers if name not in present]
    if missing:
        raise ValueError(f"the model has no layer {missing[0]}")
    state |= {n: state[first] for n, first in aliases(replaced).items() if first in state}
    for name, module in replaced.named_modules(remove_duplicate=False):
        if isinstance(module, QuantisedLinear):
            state[f"{name}.{EXTRA}"] = module.get_extra_state()
    replaced.load_state_dict(state)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)
    replaced.to(device)
    replaced.train(model.training)
    return Quantized(
        replaced,
        config,
        tuple(LayerReport(**{**r, "shape": tuple(r["shape"])}) for r in header["layers"]),
        header["fingerprint"],
        header["statistics"],
        tuple(LeftOut(**{**r, "shape": tuple(r["shape"])}) for r in header.get("left_out", ())),
    )
