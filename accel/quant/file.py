"""Quantised models on disk: one safetensors file with a JSON header; no pickle.

It holds the codes and what was not quantised, and no weight that was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..persist import check_digest, read_header, write_tensors
from .attention import Attention
from .checks import check_finite, check_layer, spec_of
from .config import DuQuantConfig, QuantConfig
from .duquant import LayerReport, Quantized
from .hashes import fingerprint, sha256, stored
from .linear import QuantisedLinear
from .replacement import replace_layers

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
EXTRA = "_extra_state"


def save_quantized(quantised: Quantized, path: str | Path) -> None:
    """Write a quantised model; the same model gives the same bytes."""
    modules = dict(quantised.model.named_modules())
    tensors = {n: t.detach().cpu().clone() for n, t in stored(quantised.model).items()}
    header = {
        "schema": SCHEMA,
        "config": asdict(quantised.config),
        "fingerprint": quantised.fingerprint,
        "statistics": quantised.statistics,
        "attentions": {n: m.cross for n, m in modules.items() if isinstance(m, Attention)},
        "specs": {n: asdict(m.spec) for n, m in modules.items() if isinstance(m, QuantisedLinear)},
        "layers": [asdict(report) for report in quantised.layers],
        "digest": sha256(tensors),
    }
    write_tensors(Path(path), tensors, header)


def load_quantized(
    path: str | Path,
    model: nn.Module,
    config: QuantConfig | None = None,
    check_source: bool = True,
    statistics: str | None = None,
) -> Quantized:
    """Read what `save_quantized` wrote into a copy of a model of that architecture.

    Args:
        path: of the file.
        model: stays as it is; on the device where the copy shall be.
        config: refuse a file that was made with other settings.
        check_source: refuse a file that was made from other weights than the model has; without
            it, `model` only gives the architecture.
        statistics: refuse a file that was fitted to others than those with this digest.

    Raises:
        ValueError: no such file, another schema, a damaged one, other settings, other weights or
            statistics, or another architecture; the message names the file.
    """
    path = Path(path)
    try:
        header = read_header(path, SCHEMA, KEYS)
        made_with = DuQuantConfig(**header["config"])
        if config is not None:
            refuse_difference(made_with, config.full())
        if check_source and fingerprint(model) != header["fingerprint"]:
            raise ValueError("it was made from other weights than this model's")
        if statistics not in (None, header["statistics"]):
            raise ValueError("it was fitted to other statistics")
        tensors = dict(load_file(path))
        check_digest(header, sha256(tensors))
        return _restore(header, made_with, tensors, model)
    except (
        *(OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError),
        *(AttributeError, AssertionError, OverflowError),
    ) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def refuse_difference(made_with: DuQuantConfig, asked: DuQuantConfig) -> None:
    """Raises ValueError with the first setting that differs."""
    mine, theirs = asdict(asked), asdict(made_with)
    for key, value in mine.items():
        if theirs[key] != value:
            raise ValueError(
                f"quant.{key} must be {value!r}, the file was made with {theirs[key]!r}"
            )


def _restore(
    header: Mapping[str, Any], config: DuQuantConfig, state: dict[str, Any], model: nn.Module
) -> Quantized:
    layers = {
        name: QuantisedLinear(spec_of(name, spec, state)) for name, spec in header["specs"].items()
    }
    check_finite(state)
    for name, layer in layers.items():
        check_layer(name, layer, state)
    missing = header["attentions"].keys() - dict(model.named_modules()).keys()
    if missing:
        raise ValueError(f"the model has no attention {min(missing)}")
    replaced = replace_layers(model, layers, header["attentions"])
    present = dict(replaced.named_modules())
    for name, layer in layers.items():
        if not isinstance(present.get(name), QuantisedLinear):
            raise ValueError(f"the model has no layer {name}")
        state[f"{name}.{EXTRA}"] = layer.get_extra_state()
    replaced.load_state_dict(state)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)
    replaced.to(device)
    reports = [LayerReport(**{**r, "shape": tuple(r["shape"])}) for r in header["layers"]]
    replaced.train(model.training)
    return Quantized(replaced, config, tuple(reports), header["fingerprint"], header["statistics"])
