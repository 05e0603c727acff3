"""The table that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..formatting import (
    NOTHING,
    across_words,
    changes,
    conditions,
    encode_words,
    flops_words,
    named,
    p_is,
    quantisation_words,
    rates,
    share,
    speed,
    stages_words,
    task_words,
    underlined,
    warm_words,
    yes_no,
)
from ..studies.cost import stages_of
from ..studies.embodied import table_rows


def render(result: Mapping[str, Any], folder: Path) -> str:
    """A result as lines of text for a terminal."""
    rows: list[tuple[str, str]] = []
    if result["success_rate"] is not None:
        n_ok = result["n_episodes"] - result["n_errors"]
        rows.append(
            (
                "success",
                f"{rates(result['success_rate'], result['success_interval'])} "
                f"({result['n_success']} of {n_ok})",
            )
        )
        rows.append(("mean score", f"{result['mean_score']:.3f}"))
    rows += [(name, f"{value:.3f}") for name, value in list(result["task_metrics"].items())[:4]]
    rows += table_rows(result) if result["success_rate"] is not None else []
    if result["n_errors"]:
        rows.append(
            (
                "errors",
                f"{result['n_errors']} episodes: seeds {[e['seed'] for e in result['errors']]}",
            )
        )
    if latency := result["latency"]:
        fast, plain = latency["accelerated"], latency["plain"]
        rows.append(("latency", _ms(fast)))
        whose = "" if latency["times_as_fast"] else " (of an older run, with its own sampler)"
        rows.append(("  unaccelerated", _ms(plain) + whose))
        if stages := stages_of(latency):
            rows.append(("  stages", stages_words(stages)))
        rows += _speed(latency)
        rows.append(
            (
                "  control",
                f"{fast['actions_hz']:.0f} actions/s at batch 1, {latency['threads']} threads",
            )
        )
    flops = result["flops"]
    of = f"{share(flops['share'])} of the checkpoint's unaccelerated policy"
    rows.append(("FLOPs", NOTHING if flops["share"] is None else of))
    rows.append(("  as run here", flops_words(flops["query"], flops["executed_share"])))
    if encode := flops.get("encode"):
        rows.append(("  and before it", encode_words(encode)))
    if warm := result["stats"].get("warm"):
        rows.append(("warm", warm_words(warm)))
    if across := result["stats"].get("across"):
        rows.append(("across", across_words(across)))
    if quantisation := result.get("quantisation"):
        rows += [("quant", words) for words in quantisation_words(quantisation)]
    if realtime := result.get("realtime"):
        rows.append(("delay", realtime["said"]))
    rows += [("plan", words) for words in result.get("adapted", [])]
    rows.append(("paired", _paired(result["baseline"])))
    if (result["baseline"] or {}).get("folder"):
        rows.append(("verdict", _verdict(result["baseline"])))
    rows += [("machines", words) for words in _machines(result)]
    if seconds := result.get("time"):  # a result of an older version has none
        rows.append(("time", _time(seconds)))
    rows.append(("files", str(folder)))
    rows += [("video", str(path)) for path in sorted((folder / "videos").glob("*.mp4"))[:3]]
    title = "  ".join(
        [
            task_words(result),
            f"cache={result['cache']}",
            f"quant={result['quant']}",
            f"{result['n_episodes']} episodes",
        ]
    )
    return underlined(title, named(rows))


def _ms(percentiles: Mapping[str, float]) -> str:
    p50, p95, p99 = (percentiles[f"p{p}_ms"] for p in (50, 95, 99))
    return f"p50 {p50:.1f} ms, p95 {p95:.1f}, p99 {p99:.1f}"


def _time(seconds: Mapping[str, float]) -> str:
    names = {
        "startup_s": "start-up",
        "policy_s": "policy",
        "simulator_wait_s": "simulators",
        "latency_s": "latency",
    }
    return ", ".join(f"{seconds[key]:.3g} s {name}" for key, name in names.items())


def _paired(baseline: Mapping[str, Any] | None) -> str:
    if baseline is None:
        return "this is the baseline"
    if baseline["folder"] is None:
        return f"no unaccelerated arm in this study yet; make it with: {baseline['command']}"
    return (
        f"{changes(baseline['difference'], baseline['difference_interval'])} against the "
        f"unaccelerated policy on {baseline['n']} seeds: {baseline['wins']} wins, "
        f"{baseline['losses']} losses, McNemar p {p_is(baseline['p_value'])}"
    )


def _verdict(baseline: Mapping[str, Any]) -> str:
    p_holm = baseline["p_holm"]
    over = f" (p {p_is(p_holm)} over {baseline['n_comparisons']})" if p_holm is not None else ""
    return (
        f"loss detected (Holm): {yes_no(baseline['loss_detected'])}{over}; "
        f"non-inferior at {100 * baseline['margin']:g} points: {yes_no(baseline['noninferior'])}"
    )


def _speed(latency: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How many times as fast, as what, and whether the machine was quiet enough to say so."""
    times = speed(latency["times_as_fast"], latency["times_as_fast_interval"])
    rows = [("  times as fast", f"{times} as the checkpoint's policy in stock modules")]
    engine = latency.get("engine_ratio")
    rows.append(("", f"{speed(engine)} as this engine without the acceleration"))
    rows.append(("  measured", conditions(latency)))
    warning = latency.get("warning")
    return rows + ([("  warning", warning)] if warning else [])


def _machines(result: Mapping[str, Any]) -> list[str]:
    """Where an arm and what it is paired with ran, if not both on one and the same machine."""
    found = {*result.get("machines", ()), *(result["baseline"] or {}).get("machines", ())}
    if len(found) < 2:
        return []
    return [f"{'; '.join(sorted(found))}: last bits, and with them a few seeds, may differ"]
