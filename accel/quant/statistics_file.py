"""Statistics on disk: one safetensors file with a JSON header; no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..persist import check_digest, read_header, write_tensors
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
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, statistics.tensors(), header)
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
        return _parse(read_header(path, SCHEMA, KEYS), load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def _parse(header: dict[str, Any], tensors: dict[str, Tensor]) -> Statistics:
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
    check_digest(header, statistics.digest())
    return statistics
