"""What the runs of a study are called: their stratum, and what sets their methods apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..formatting import task_words
from ..store.reading import Run, is_baseline

STRATUM = ("task", "noise_seed")
ALWAYS = ("cache", "quant")
# the default of quant.include, and the one before it, which chose the same layers of these policies
BLOCKS = (
    r"(^|\.)(?!(down|up|mid)_)(\w*_)?(layers?|blocks?|resblocks|refiner|h)\.\d+\.(?!.*kv_proj$)"
)
EARLIER_BLOCKS = r"(^|\.)(layers|blocks|transformer_blocks)\.\d+\.(?!.*kv_proj$)"
CALLS = {"rk4": 4}  # of the network in a step, where that is not one
QUANT_LABEL = ("name", "weight_bits", "activation_bits")


def strata_of(runs: Sequence[Run]) -> dict[str, str]:
    """Tasks; where the runs of a task differ in its settings or noise seed, these are added."""
    settings = {run.name: _flat({key: run.config.get(key) for key in STRATUM}) for run in runs}
    names: dict[str, str] = {}
    for run in runs:
        peers = [
            settings[other.name] for other in runs if _task(other) == _task(run) and other.config
        ]
        keys = dict.fromkeys(key for peer in peers for key in peer) if run.config else {}
        differing = [key for key in keys if len({peer.get(key) for peer in peers}) > 1]
        words = [f"{_field(key)} {settings[run.name].get(key)}" for key in differing]
        names[run.name] = ", ".join(dict.fromkeys([_task(run), *words]))
    return names


def _flat(node: object, prefix: str = "") -> dict[str, str]:
    """{"task.config.max_steps": "280"}."""
    if not isinstance(node, dict):
        return {prefix: str(node)}
    found: dict[str, str] = {}
    for key, value in node.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _field(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def labels_of(runs: Sequence[Run], strata: Mapping[str, str]) -> dict[str, str]:
    """Names of methods: the same one in every stratum, no two the same in one."""
    parts = {run.name: _choices(run, runs) for run in runs}
    labels = {}
    for run in runs:
        mine = parts[run.name]
        peers = [parts[r.name] for r in runs if parts[r.name]["cache"] == mine["cache"]]
        values = {key: {p[key] for p in peers if key in p} for key in mine}
        differing = [key for key in mine if key not in ALWAYS and len(values[key]) > 1]
        words = [*(mine.get(key, "") for key in ALWAYS), *(_said(k, mine[k]) for k in differing)]
        labels[run.name] = _without_none([word for word in words if word], mine)
    seen = Counter((strata[name], label) for name, label in labels.items())
    return {
        name: label if seen[strata[name], label] == 1 else f"{label} ({name.rpartition('_')[2]})"
        for name, label in labels.items()
    }


def _without_none(words: Sequence[str], choices: Mapping[str, str]) -> str:
    """An arm without a cache is called by its quantisation and its sampler, if it has one."""
    named = choices.get("quant") or choices.get("sampler") in words
    return ", ".join(words[1:] if words[0] == "none" and named else words)


def timing_label(config: Mapping[str, Any]) -> str:
    """Sampler, cache and quantisation: what an arm is called in a study's latency.json.

    Example:
        >>> ddpm = {"kind": "ddpm", "steps": 5, "spacing": "trailing"}
        >>> timing_label({"sampler": ddpm, "cache": {"name": "bac", "steps": 2}, "quant": {}})
        'ddpm-5 trailing, bac S = 2'
    """
    cache, quant = config["cache"], quant_label(config["quant"])
    cached = "" if cache["name"] == "none" else f"{cache['name']} S = {cache.get('steps')}"
    cached = " ".join(filter(None, (cached, across_label(cache))))
    words = (sampler_label(config["sampler"]), cached, quant, warm_label(config.get("warm")))
    return ", ".join(filter(None, words))


def arm_words(config: Mapping[str, Any]) -> str:
    """What one run is called without others beside it.

    Example:
        >>> arm_words({"cache": {"name": "hash_ab", "steps": 10}, "quant": {"name": "none"}})
        'hash_ab S=10'
        >>> arm_words({"cache": {"name": "none"}, "sampler": {"kind": "ddpm", "steps": 100}})
        'ddpm-100'
        >>> arm_words({"sampler": {"kind": "ddpm", "steps": 10}, "warm": {"start": 5}})
        'ddpm-10, warm from 5'
    """
    cache = dict(config.get("cache") or {})
    name = str(cache.get("name") or "none")
    cached = f"{name} S={cache['steps']}" if "steps" in cache else name
    cached = " ".join(filter(None, (cached, across_label(cache))))
    words = [cached] if name != "none" else []
    words += [quant_label(config.get("quant") or {}), sampler_label(config.get("sampler") or {})]
    words.append(warm_label(config.get("warm")))
    return ", ".join(filter(None, words)) or name


def natural(label: str) -> list[tuple[int, str]]:
    """A key that sorts by numbers where there are some.

    Example:
        >>> sorted(["ddpm-10", "bac", "ddpm-5"], key=natural)
        ['bac', 'ddpm-5', 'ddpm-10']
    """
    parts = re.split(r"(\d+)", label)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _choices(run: Run, runs: Sequence[Run]) -> dict[str, str]:
    """What a method is made of, flat, as texts; the sampler only where it is not the baseline's."""
    if not run.config:  # it failed before it wrote one: its folder's name says this much
        return {"cache": "_".join(run.name.split("_")[1:-3]) or run.name}
    found = {"cache": str(run.config["cache"]["name"])}
    for group in ("cache", "quant", "engine"):
        node = dict(run.config.get(group) or {})
        if group == "quant":
            found["quant"] = quant_label(node)
            node = {k: v for k, v in node.items() if k not in QUANT_LABEL}
            if node.get("include") == [EARLIER_BLOCKS]:
                node["include"] = [BLOCKS]
        if group == "cache":
            found["across"] = across_label(node)
            node = {k: v for k, v in node.items() if k not in ("across", "refresh")}
        found |= {
            f"{group}.{k}": str(v) for k, v in node.items() if (group, k) != ("cache", "name")
        }
    beside = [r for r in runs if r.of(STRATUM) == run.of(STRATUM)]
    plain = {_sampler(r) for r in beside if is_baseline(r)} or {_sampler(r) for r in beside}
    found["sampler"] = "" if plain == {_sampler(run)} else _sampler(run)
    delay = (run.config.get("realtime") or {}).get("delay_steps")
    found["realtime"] = f"delay {delay}" if delay else ""
    found["warm"] = warm_label(run.config.get("warm"))
    return found | {k: str(run.config.get(k)) for k in ("threads", "policy_batch", "device")}


def across_label(cache: Mapping[str, object]) -> str:
    """Of a cache's settings; empty where its queries do not reach back.

    Example:
        >>> across_label({"name": "uniform", "across": True, "refresh": 3})
        'across queries, full every 3'
    """
    if not cache.get("across"):
        return ""
    refresh = cache.get("refresh", 2)
    words = {0: ", full once", 2: ""}.get(int(str(refresh)), f", full every {refresh}")
    return f"across queries{words}"


def warm_label(config: Mapping[str, object] | None) -> str:
    """Warm from 5; empty without."""
    if not config:
        return ""
    words = [f"warm from {config['start']}"]
    words += ["then noise"] if config.get("fill") == "noise" else []
    words += [f"up to {config['jump']}"] if config.get("jump") else []
    words += [f"{config['join']} join"] if config.get("join", "none") != "none" else []
    return " ".join(words)


def quant_label(config: Mapping[str, object]) -> str:
    """Duquant W8A8; empty without a quantisation."""
    name = config.get("name", "none")
    bits = "".join(f"{k[0].upper()}{config[k]}" for k in QUANT_LABEL[1:] if k in config)
    return "" if name == "none" else f"{name} {bits}".strip()


def _sampler(run: Run) -> str:
    """Of the run's sampler: "ddim-12", "ddpm-5 trailing", "dpmpp-10 trailing SDE"."""
    return sampler_label(run.config.get("sampler") or {})


def sampler_label(sampler: Mapping[str, Any]) -> str:
    """A sampler's settings in few words: kind, steps, and what was chosen besides.

    A step is one call of the network, and where it is more they are said: "rk4-10, 40 calls".
    """
    if not sampler:
        return ""
    words = [f"{sampler.get('kind')}-{sampler.get('steps')}"]
    if (calls := CALLS.get(str(sampler.get("kind")), 1)) > 1:
        words = [f"{words[0]}, {calls * int(sampler['steps'])} calls"]
    if sampler.get("timesteps"):
        words.append("at " + listed(sampler["timesteps"]))
    if sampler.get("spacing"):
        words.append(str(sampler["spacing"]))
    if sampler.get("power"):
        words.append(f"of {sampler['power']:g}")
    if sampler.get("kind") == "ddpm" and sampler.get("variance_type") == "fixed_large":
        words.append("fixed_large")
    if sampler.get("eta"):
        words.append(f"eta {sampler['eta']:g}")
    if sampler.get("order"):
        words.append(f"order {sampler['order']}")
    if sampler.get("stochastic"):
        words.append("SDE")
    return " ".join(words)


def listed(timesteps: Sequence[int]) -> str:
    """Timesteps in few words; four or more that follow each other as the first and the last.

    Example:
        >>> listed([99, 49, 0]), listed([99, 50, *range(9, -1, -1)])
        ('99/49/0', '99/50/9..0')
    """
    runs: list[list[int]] = []
    for t in timesteps:
        if runs and runs[-1][-1] == t + 1:
            runs[-1].append(t)
        else:
            runs.append([t])
    return "/".join(
        f"{run[0]}..{run[-1]}" if len(run) > 3 else "/".join(map(str, run)) for run in runs
    )


def _said(key: str, value: str) -> str:
    """A setting in few words: "10 steps", "even", "ddim-16", "threads 2"."""
    spoken = {
        "cache.steps": f"{value} steps",
        **dict.fromkeys(
            ("cache.spacing", "engine.name", "sampler", "realtime", "warm", "across"), value
        ),
        "device": value,
    }
    return spoken.get(key, f"{_field(key)} {value}")


def _task(run: Run) -> str:
    """The task, and its world where it has many."""
    said = run.config.get("task", {})
    name = str(said.get("name") or run.name.split("_")[0])
    return task_words({"task": name, "world": said.get("world")})
