"""Cache plans on disk: JSON that a person can read and diff; no pickle.

A plan with a bias has it in a safetensors file beside the JSON, tied to it by the plan's digest.
Files without "sampler" are an older version's; they load, and fit their own sampler only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from skipstep.plain_files import read_json
from skipstep.whole_files import write_whole

from ..persist import check_digest, check_keys, check_schema
from .across import Across
from .bands import Bands
from .decisions import Threshold
from .plan import CachePlan, PlanError, PlanSampler
from .sites import Site

SCHEMA = "skipstep-plan/1"
KEYS = {
    "schema",
    "method",
    "policy",
    "n_steps",
    "n_slots",
    "sites",
    "bands",
    "rows",
    "alpha",
    "digest",
}
OPTIONAL = {"bias", "sampler", "adapted", "decide", "across"}
KINDS = {"deep": ("output",), "block": ("delta", "output")}  # by op; the others' is branch
COMPUTED, HIT = "S", "R"
MOST_STEPS, DIGITS = 10**5, 7  # of a row, and of a word in it
MOST_NUMBERS = 2**24  # of coefficients


def run_lengths(row: np.ndarray) -> str:
    """[1, 0, 0, 1] -> "S R2 S"."""
    words = []
    for computed, group in groupby(row.tolist()):
        n = len(list(group))
        words.append((COMPUTED if computed else HIT) + (str(n) if n > 1 else ""))
    return " ".join(words)


def from_run_lengths(text: str) -> list[bool]:
    """The inverse of `run_lengths`."""
    cells: list[bool] = []
    for word in text.split():
        if not re.fullmatch(f"[{COMPUTED}{HIT}][0-9]*", word):
            raise PlanError(
                f"plan row must be made of {COMPUTED} and {HIT} with counts, got {word!r}"
            )
        if len(word) > DIGITS or len(cells) + int(word[1:] or 1) > MOST_STEPS:
            raise PlanError(f"plan row must have at most {MOST_STEPS} cells, got {word[:20]!r}")
        cells += [word[0] == COMPUTED] * int(word[1:] or 1)
    return cells


def save_plan(plan: CachePlan, path: str | Path) -> None:
    """Write a plan as JSON; hits other than plain reuse list their coefficients by step.

    A bias goes to `bias_path(path)` first, so the JSON never lacks it.
    """
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "method": plan.method,
        "policy": plan.policy,
        "n_steps": plan.n_steps,
        "n_slots": plan.n_slots,
        "sites": [{"name": s.name, "op": s.op, "kind": s.kind} for s in plan.sites],
        "bands": plan.bands
        and {"cutoff": plan.bands.cutoff, "low": _by_site(plan, plan.bands.low)},
        "rows": {s.name: run_lengths(plan.mask[:, u]) for u, s in enumerate(plan.sites)},
        "alpha": None if plan.alpha is None else _by_site(plan, plan.alpha),
        "digest": plan.digest(),
    }
    if plan.sampler is not None:
        content["sampler"] = asdict(plan.sampler)
    if plan.decide is not None:
        content["decide"] = plan.decide.as_dict()
    if plan.across is not None:
        weights = _by_site(plan, plan.across.alpha, plan.across.taken)
        content["across"] = {"refresh": plan.across.refresh, "alpha": weights}
    if plan.adapted:
        content["adapted"] = list(plan.adapted)
    path = Path(path)
    bias = plan.hit_bias()
    if bias is not None:
        content["bias"] = {"shape": list(bias.shape)}
        write_whole(bias_path(path), save({"bias": bias}, {"plan": content["digest"]}))
    write_whole(path, json.dumps(content, indent=1).encode())


def _by_site(
    plan: CachePlan, alpha: np.ndarray, cells: np.ndarray | None = None
) -> dict[str, dict[str, list[float]]]:
    """{site: {step: coefficients}} of cells, None: of hits."""
    cells = ~plan.mask if cells is None else cells
    return {
        site.name: {str(s): alpha[s, u].tolist() for s in np.flatnonzero(cells[:, u])}
        for u, site in enumerate(plan.sites)
    }


def _from_sites(content: Any, sites: Sequence[Site], shape: tuple[int, ...]) -> np.ndarray:
    if math.prod(shape) > MOST_NUMBERS:
        raise PlanError(f"coefficients must be at most {MOST_NUMBERS} numbers, got {shape}")
    if content.keys() != {site.name for site in sites}:
        raise PlanError("coefficients must be listed by site")
    alpha = np.zeros(shape)
    for u, site in enumerate(sites):
        for step, coefficients in content[site.name].items():
            if not re.fullmatch("[0-9]{1,6}", step) or int(step) >= shape[0]:
                raise PlanError(f"coefficients of {site.name} are of step {step[:20]!r}")
            if len(coefficients) != shape[2] or not all(map(_is_number, coefficients)):
                raise PlanError(
                    f"coefficients of {site.name} in step {step} must be {shape[2]} numbers"
                )
            alpha[int(step), u] = coefficients
    return alpha


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def bias_path(path: Path) -> Path:
    """plan.json -> plan.bias.safetensors."""
    return path.with_name(f"{path.stem}.bias.safetensors")


def _load_bias(path: Path, content: dict[str, Any]) -> np.ndarray:
    if not path.is_file():
        raise PlanError(f"its bias, {path.name}, is not beside it")
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("plan") != content["digest"]:
                raise PlanError(f"{path.name} belongs to another plan")
            bias: np.ndarray = file.get_tensor("bias")
    except SafetensorError as error:
        raise PlanError(f"{path.name} cannot be read: {error}") from error
    if list(bias.shape) != content["bias"]["shape"]:
        raise PlanError(f"bias must have shape {content['bias']['shape']}, got {list(bias.shape)}")
    return bias


def _sampler(content: dict[str, Any]) -> PlanSampler:
    if not all(map(_is_number, content["alpha_bar"])) or not isinstance(content["settings"], dict):
        raise PlanError("sampler must have settings and numbers")
    alpha_bar = tuple(float(a) for a in content["alpha_bar"])
    if not all(0 <= a <= 1 for a in alpha_bar):
        raise PlanError("sampler.alpha_bar must be from 0 to 1")
    return PlanSampler(dict(content["settings"]), alpha_bar)


def load_plan(path: str | Path) -> CachePlan:
    """Read a plan.

    Raises:
        PlanError: another schema, unknown keys, rows of a wrong length, a missing or foreign bias
            file, or content that does not match its digest; the message names the file.
    """
    path = Path(path)
    try:
        content: Any = read_json(path)
        return _parse(content, bias_path(path))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PlanError(f"{path}: {' '.join(str(error).split())}") from error


def _counted(content: dict[str, Any], name: str, most: int) -> int:
    value = content[name]
    if type(value) is not int or not 1 <= value <= most:
        raise PlanError(f"{name} must be a whole number from 1 to {most}, got {value!r}")
    return value


def _parse(content: Any, beside: Path) -> CachePlan:
    check_schema(content, SCHEMA)
    check_keys(content, KEYS, OPTIONAL)
    sites = tuple(Site(**site) for site in content["sites"])
    for site in sites:
        kinds = KINDS.get(site.op, ("branch",))
        if site.kind not in kinds:
            raise PlanError(f"kind must be {' or '.join(kinds)}, got {site.kind!r} for {site.name}")
    n_steps, n_slots = (
        _counted(content, name, most) for name, most in (("n_steps", MOST_STEPS), ("n_slots", 64))
    )
    for name in ("policy", "method", "digest"):
        if not isinstance(content[name], str):
            raise PlanError(f"{name} must be a text, got {content[name]!r}")
    if content["rows"].keys() != {site.name for site in sites}:
        raise PlanError("rows must be those of the sites")
    rows = {name: from_run_lengths(row) for name, row in content["rows"].items()}
    for site in sites:
        if len(rows.get(site.name, [])) != n_steps:
            raise PlanError(f"row of {site.name} must have {n_steps} cells")
    mask = np.array([rows[site.name] for site in sites], dtype=bool).T
    shape = (n_steps, len(sites), n_slots)
    alpha = None if content["alpha"] is None else _from_sites(content["alpha"], sites, shape)
    bands = content["bands"]
    if bands is not None:
        if not _is_number(bands["cutoff"]) or not 0 <= bands["cutoff"] <= 1:
            raise PlanError(f"bands.cutoff must be from 0 to 1, got {bands['cutoff']!r}")
        bands = Bands(_from_sites(bands["low"], sites, shape), float(bands["cutoff"]))
    bias = _load_bias(beside, content) if "bias" in content else None
    sampler = _sampler(content["sampler"]) if "sampler" in content else None
    decide = Threshold.from_dict(content["decide"]) if "decide" in content else None
    across = None
    if "across" in content:
        weights = _from_sites(content["across"]["alpha"], sites, (n_steps, len(sites), 2))
        across = Across(weights, content["across"]["refresh"])
    adapted = tuple(str(words) for words in content.get("adapted", ()))
    plan = CachePlan(
        sites,
        mask,
        content["policy"],
        content["method"],
        alpha,
        bias,
        sampler,
        adapted,
        decide,
        bands,
        across,
    )
    check_digest(content, plan.digest())
    return plan
