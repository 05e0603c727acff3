"""What the runs of a study are called: their stratum, and what sets their methods apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .run_folder import Run, is_baseline

STRATUM = ("task", "noise_seed")


def strata_of(runs: Sequence[Run]) -> dict[str, str]:
    """Tasks; what else differs between the strata of a task is added where it does."""
    names: dict[str, str] = {}
    for run in runs:
        mine = [other for other in runs if _task(other) == _task(run) and other.config]
        parts = [_task(run)]
        if run.config and len({r.config["task"].get("checkpoint") for r in mine}) > 1:
            parts.append(str(run.config["task"].get("checkpoint")))
        if run.config and len({r.config.get("noise_seed") for r in mine}) > 1:
            parts.append(f"noise seed {run.config.get('noise_seed')}")
        names[run.name] = ", ".join(parts)
    return names


def labels_of(runs: Sequence[Run], strata: Mapping[str, str]) -> dict[str, str]:
    """Names of methods: the same one in every stratum, no two the same in one."""
    parts = {run.name: _choices(run, runs) for run in runs}
    labels = {}
    for run in runs:
        mine = parts[run.name]
        peers = [parts[r.name] for r in runs if parts[r.name]["cache"] == mine["cache"]]
        differing = [k for k in mine if k != "cache" and len({p.get(k) for p in peers}) > 1]
        words = [mine["cache"], *(_said(key, mine[key]) for key in differing)]
        labels[run.name] = ", ".join(word for word in words if word)
    seen = Counter((strata[name], label) for name, label in labels.items())
    return {
        name: label if seen[strata[name], label] == 1 else f"{label} ({name.rpartition('_')[2]})"
        for name, label in labels.items()
    }


def _choices(run: Run, runs: Sequence[Run]) -> dict[str, str]:
    """What a method is made of, flat, as texts; the sampler only where it is not the baseline's."""
    if not run.config:  # it failed before it wrote one: its folder's name says this much
        return {"cache": "_".join(run.name.split("_")[1:-3]) or run.name}
    found = {"cache": str(run.config["cache"]["name"])}
    for group in ("cache", "quant", "engine"):
        node = run.config.get(group) or {}
        found |= {
            f"{group}.{k}": str(v) for k, v in node.items() if (group, k) != ("cache", "name")
        }
    plain = [_sampler(r) for r in runs if is_baseline(r) and r.of(STRATUM) == run.of(STRATUM)]
    found["sampler"] = "" if _sampler(run) in plain else _sampler(run)
    return found | {k: str(run.config.get(k)) for k in ("threads", "policy_batch", "device")}


def _sampler(run: Run) -> str:
    sampler = run.config.get("sampler") or {}
    return f"{sampler.get('kind')}-{sampler.get('steps')}" if sampler else ""


def _said(key: str, value: str) -> str:
    """A setting in few words: "10 steps", "even", "ddim-16", "threads 2"."""
    field = key.rpartition(".")[2]
    spoken = {
        "quant.name": "" if value == "none" else value,
        "cache.steps": f"{value} steps",
        **dict.fromkeys(("cache.spacing", "engine.name", "sampler", "device"), value),
    }
    return spoken.get(key, f"{field} {value}")


def _task(run: Run) -> str:
    return str(run.config.get("task", {}).get("name") or run.name.split("_")[0])
