"""Statistics on disk: one safetensors file with a JSON header; no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from ..atomic import write_whole
from .statistics import LayerStatistics, Statistics

SCHEMA = "skipstep-statistics/1"
FILE = "statistics.safetensors"
KEYS = {"schema", "model", "attentions", "layers", "source", "digest"}


def file_path(path: str | Path) -> Path:
    """A folder is the statistics.safetensors in it."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / FILE


def save_statistics(statistics: Statistics, path: str | Path) -> Path:
    """Write by rename; returns the path of the file."""
    path = file_path(path)
    header = {
        "schema": SCHEMA,
        "model": statistics.model,
        "attentions": statistics.attentions,
        "layers": list(statistics.layers),
        "source": statistics.source,
        "digest": statistics.digest(),
    }
    text = json.dumps(header, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(statistics.tensors(), {"skipstep": text}))
    return path


def load_statistics(path: str | Path) -> Statistics:
    """Read statistics.

    Raises:
        ValueError: no such file, another schema, or content that does not match its digest; the
            message names the file.
    """
    path = file_path(path)
    if not path.exists():
        raise ValueError(f"no statistics at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header: Any = json.loads((file.metadata() or {}).get("skipstep", "null"))
        return _parse(header, load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def _parse(header: Any, tensors: dict[str, Tensor]) -> Statistics:
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}")
    if header.keys() != KEYS:
        raise ValueError(f"header must have {', '.join(sorted(KEYS))}")
    layers = {
        name: LayerStatistics(
            maximum=tensors[f"{name}/maximum"],
            rows=tensors[f"{name}/rows"],
            peaks=tuple(tensors[f"{name}/peaks"].to(torch.float64).tolist()),
            n_tokens=int(tensors[f"{name}/n_tokens"]),
        )
        for name in header["layers"]
    }
    statistics = Statistics(layers, header["attentions"], header["model"], header["source"])
    if statistics.digest() != header["digest"]:
        raise ValueError("digest does not match the content")
    return statistics
