"""Calibrations on disk: JSON that a person can read, and safetensors beside it; no pickle.

The arrays are those of the statistics in "first" (where there is none: of `STANDARD`), and of those
in "added", {name: digest}. So a statistic that joins later leaves "digest" as it is.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from skipstep.plain_files import read_json
from skipstep.whole_files import write_whole

from ..persist import check_digest, check_keys, check_schema
from ..plans.plan import PlanError
from ..plans.sites import Site
from .calibration import MIN_QUERIES, Calibration
from .statistics import STANDARD, STATISTICS, Extent

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
    "source",
    "versions",
    "digest",
}
OPTIONAL = {"volatility", "first", "added"}


def json_path(path: str | Path) -> Path:
    """A folder is the calibration.json in it."""
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE


def save_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Write the arrays, then the JSON that vouches for them, each by rename."""
    path = json_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(a) for name, a in calibration.arrays.items()}
    extent = calibration.extent
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "policy": calibration.policy,
        "n_queries": extent.n_queries,
        "n_steps": extent.n_steps,
        "n_layers": extent.n_layers,
        "n_tokens": extent.n_tokens,
        "width": extent.width,
        "sites": [{"name": s.name, "op": s.op, "kind": s.kind} for s in calibration.sites],
    }
    if "volatility" in arrays:
        volatility = zip(calibration.sites, arrays["volatility"].tolist(), strict=True)
        content["volatility"] = {site.name: value for site, value in volatility}
    content |= {
        "source": calibration.source,
        "versions": {name: metadata.version(name) for name in ("torch", "numpy")},
        "digest": calibration.digest(),
    }
    if calibration.first != STANDARD:
        content["first"] = list(calibration.first)
    if added := sorted(calibration.statistics - set(calibration.first)):
        content["added"] = {name: calibration.digest([name]) for name in added}
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
        content: Any = read_json(path)
        return _parse(content, load_file(arrays))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"{path}: {' '.join(str(error).split())}") from error


def _parse(content: Any, arrays: dict[str, np.ndarray]) -> Calibration:
    check_schema(content, SCHEMA)
    check_keys(content, KEYS, OPTIONAL)
    for name in ("n_queries", "n_steps", "n_layers", "n_tokens", "width"):
        if type(content[name]) is not int or content[name] < 0:
            raise PlanError(f"{name} must be a whole number, got {content[name]!r}")
    for name in ("policy", "digest"):
        if not isinstance(content[name], str):
            raise PlanError(f"{name} must be a text, got {content[name]!r}")
    if content["n_queries"] < MIN_QUERIES:
        raise PlanError(f"n_queries must be at least {MIN_QUERIES}, got {content['n_queries']}")
    sites = tuple(Site(**site) for site in content["sites"])
    sizes = ("n_queries", "n_steps", "n_layers", "n_tokens", "width")
    calibration = Calibration(
        sites=sites,
        policy=content["policy"],
        extent=Extent(n_sites=len(sites), **{name: content[name] for name in sizes}),
        arrays=arrays,
        source=content["source"],
        first=tuple(content.get("first", STANDARD)),
    )
    added = content.get("added", {})
    _check_arrays(calibration, {*calibration.first, *added})
    check_digest(content, calibration.digest())
    for name, digest in added.items():
        if calibration.digest([name]) != digest:
            raise PlanError(f"digest does not match the content of {name}")
    return calibration


def _check_arrays(calibration: Calibration, statistics: set[str]) -> None:
    """Refuse others than these; those that nobody registered here may have any shape."""
    expected: dict[str, Any] = {}
    registered = [name for name in STATISTICS if name in statistics]
    for name in registered:
        expected |= STATISTICS[name].shapes(calibration.extent)
    known = calibration.of(*registered)
    wrong = sorted((calibration.statistics ^ statistics) | (known.keys() ^ expected.keys()))
    if wrong:
        raise PlanError(f"arrays differ from the schema's: {', '.join(wrong)}")
    for name, (dtype, shape) in expected.items():
        if (known[name].dtype, known[name].shape) != (dtype, shape):
            raise PlanError(
                f"{name} must be {dtype} {shape}, got {known[name].dtype} {known[name].shape}"
            )
