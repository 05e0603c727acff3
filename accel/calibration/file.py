"""Calibrations on disk: JSON that a person can read, and safetensors beside it; no pickle."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ..atomic import write_whole
from ..plans.plan import PlanError
from ..plans.sites import Site
from .calibration import METRICS, MIN_QUERIES, Calibration

SCHEMA = "skipstep-calibration/3"
FILE = "calibration.json"
KEYS = {
    "schema",
    "policy",
    "n_queries",
    "n_steps",
    "n_layers",
    "n_tokens",
    "width",
    "sites",
    "volatility",
    "source",
    "versions",
    "digest",
}


def json_path(path: str | Path) -> Path:
    """A folder is the calibration.json in it."""
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE


def save_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Write the arrays, then the JSON that vouches for them, each by rename."""
    path = json_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(a) for name, a in calibration.arrays().items()}
    volatility = zip(calibration.sites, calibration.volatility.tolist(), strict=True)
    content = {
        "schema": SCHEMA,
        "policy": calibration.policy,
        "n_queries": calibration.n_queries,
        "n_steps": calibration.n_steps,
        "n_layers": len(calibration.stream),
        "n_tokens": calibration.mean.shape[2],
        "width": calibration.mean.shape[3],
        "sites": [{"name": s.name, "op": s.op, "kind": s.kind} for s in calibration.sites],
        "volatility": {site.name: value for site, value in volatility},
        "source": calibration.source,
        "versions": {name: metadata.version(name) for name in ("torch", "numpy")},
        "digest": calibration.digest(),
    }
    text = json.dumps(content, indent=1)  # before anything is written: it may refuse `source`
    write_whole(path.with_suffix(".safetensors"), save(arrays))
    write_whole(path, text.encode())
    return path


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration.

    Raises:
        PlanError: no such file, another schema, unknown keys, arrays of another shape or type, or
            content that does not match its digest; the message names the file.
    """
    path = json_path(path)
    arrays = path.with_suffix(".safetensors")
    for file in (path, arrays):
        if not file.exists():
            raise PlanError(f"no calibration at {path}: {file.name} is missing")
    try:
        content: Any = json.loads(path.read_text())
        return _parse(content, load_file(arrays))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"{path}: {error}") from error


def _parse(content: Any, arrays: dict[str, np.ndarray]) -> Calibration:
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise PlanError(f"schema must be {SCHEMA}")
    if content.keys() != KEYS:
        raise PlanError(
            f"keys differ from the schema's: {', '.join(sorted(content.keys() ^ KEYS))}"
        )
    if int(content["n_queries"]) < MIN_QUERIES:
        raise PlanError(f"n_queries must be at least {MIN_QUERIES}, got {content['n_queries']}")
    sites = tuple(Site(**site) for site in content["sites"])
    n, steps, layers = len(sites), int(content["n_steps"]), int(content["n_layers"])
    grid = np.dtype(np.float64), (n, steps, steps)
    expected: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        **{f"{group}.{name}": grid for group in ("similarity", "spread") for name in METRICS},
        "gram": grid,
        "volatility": (np.dtype(np.float64), (n,)),
        "mean": (np.dtype(np.float32), (n, steps, content["n_tokens"], content["width"])),
        "stream": (np.dtype(np.float64), (layers, steps, layers, steps)),
        "sensitivity": (np.dtype(np.float64), (steps,)),
        "probe": (np.dtype(np.float64), (int(content["n_queries"]), steps)),
        "response": (np.dtype(np.float64), (int(content["n_queries"]), steps)),
        "depth_change": (np.dtype(np.float64), (layers, steps, steps)),
    }
    if arrays.keys() != expected.keys():
        raise PlanError(
            f"arrays differ from the schema's: {', '.join(sorted(arrays.keys() ^ expected.keys()))}"
        )
    for name, (dtype, shape) in expected.items():
        if (arrays[name].dtype, arrays[name].shape) != (dtype, shape):
            raise PlanError(
                f"{name} must be {dtype} {shape}, got {arrays[name].dtype} {arrays[name].shape}"
            )
    calibration = Calibration(
        sites=sites,
        policy=content["policy"],
        n_queries=int(content["n_queries"]),
        similarity={name: arrays[f"similarity.{name}"] for name in METRICS},
        spread={name: arrays[f"spread.{name}"] for name in METRICS},
        volatility=arrays["volatility"],
        gram=arrays["gram"],
        mean=arrays["mean"],
        stream=arrays["stream"],
        sensitivity=arrays["sensitivity"],
        probe=arrays["probe"],
        response=arrays["response"],
        depth_change=arrays["depth_change"],
        source=content["source"],
    )
    if calibration.digest() != content["digest"]:
        raise PlanError("digest does not match the content")
    return calibration
