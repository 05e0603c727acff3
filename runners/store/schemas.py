"""What the files of a run hold, as far as anything reads it."""

from __future__ import annotations

from .kinds import (
    ABOVE_0,
    ANYTHING,
    BESIDE,
    COUNT,
    HASH,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    SHARE,
    TEXT,
    WHOLE,
    YES_NO,
    Kind,
    list_of,
    mapping_of,
    maybe,
    one_of,
    record,
    table_of,
)

BOUNDS = list_of(NUMBER, 2)

_EPISODE_OK = record({"success": YES_NO}, {"score": NUMBER})
_EPISODE_ANY = record(
    {"seed": WHOLE, "status": one_of("ok", "error")},
    {
        "n_steps": WHOLE,
        "n_queries": WHOLE,
        "attempts": WHOLE,
        "seconds": NOT_NEGATIVE,
        "details": maybe(record({})),
        "embodied": maybe(
            record({}, {"time_to_subtask_s": mapping_of(maybe(NUMBER))}),
        ),
        "error": maybe(TEXT),
        "video": maybe(BESIDE),
        "machine": TEXT,
    },
)


def episode(value: object, place: str) -> None:
    """A line of episodes.jsonl: a kind, as those in `kinds`."""
    _EPISODE_ANY(value, place)
    assert isinstance(value, dict)
    if value["status"] == "ok":
        _EPISODE_OK(value, place)
    for name, measured in (value.get("embodied") or {}).items():
        if name != "time_to_subtask_s":
            maybe(NUMBER)(measured, f"embodied.{name}")


_QUERY_MS = record(
    {name: NOT_NEGATIVE for name in ("p50_ms", "p95_ms", "p99_ms")},
    {
        "actions_hz": NOT_NEGATIVE,
        "encode_ms": record({"p50": NOT_NEGATIVE}),
        "denoise_ms": record({"p50": NOT_NEGATIVE}),
    },
)
_SAMPLES = list_of(ABOVE_0, least=1)
_LATENCY = record(
    {
        "samples_ms": record({"accelerated": _SAMPLES, "plain": _SAMPLES}),
        **dict.fromkeys(("batch", "threads", "repeats", "warmup"), WHOLE),
        "device": TEXT,
    },
    {
        "accelerated": _QUERY_MS,
        "plain": _QUERY_MS,
        "times_as_fast": maybe(ABOVE_0),
        "times_as_fast_interval": maybe(list_of(ABOVE_0, 2)),
        "engine_ratio": maybe(ABOVE_0),
        "warning": maybe(TEXT),
        "clock": TEXT,
        "cpu": TEXT,
        "load": maybe(record({"before": NUMBER, "after": NUMBER, "cores": POSITIVE})),
    },
)
_LAYER = record(
    {
        "method": TEXT,
        "kernel": TEXT,
        "simulated": maybe(TEXT),
        **dict.fromkeys(("error", "crest_before", "crest_after"), NUMBER),
    }
)
_QUANTISATION = record(
    {
        "weight_bits": POSITIVE,
        "activation_bits": POSITIVE,
        "layers": list_of(_LAYER, least=1),
        "bytes_before": POSITIVE,
        "bytes_after": WHOLE,
        "share": SHARE,
        "warnings": list_of(TEXT),
    }
)
_MEANS = mapping_of(record({"n": WHOLE}, {"interval": maybe(BOUNDS)}))
_BASELINE = record(
    {"folder": maybe(TEXT)},
    {
        "command": TEXT,
        **dict.fromkeys(("n", "wins", "losses"), WHOLE),
        "difference": NUMBER,
        "difference_interval": BOUNDS,
        "p_value": SHARE,
        "p_holm": maybe(SHARE),
        "n_comparisons": maybe(WHOLE),
        "loss_detected": maybe(YES_NO),
        "noninferior": YES_NO,
        "margin": NUMBER,
        "machines": list_of(TEXT),
        "embodied": _MEANS,
    },
)
_STATS = record(
    {"computed": table_of(NOT_NEGATIVE), "n_queries": WHOLE}, {"plan": HASH, "flops": maybe(WHOLE)}
)
_FLOPS = record(
    {"query": maybe(WHOLE), "plain": maybe(WHOLE)},
    {
        "share": maybe(NOT_NEGATIVE),
        "executed_share": maybe(NOT_NEGATIVE),
        "encode": maybe(WHOLE),
    },
)

TIME: Kind = record(
    {},
    dict.fromkeys(("startup_s", "policy_s", "simulator_wait_s", "latency_s"), NOT_NEGATIVE),
)

RESULT: Kind = record(
    {},
    {
        **dict.fromkeys(("task", "cache", "quant", "world", "runner", "dataset", "command"), TEXT),
        "fingerprint": HASH,
        "stats": record({}, {"plan": HASH}),
        "latency": maybe(record({"samples_ms": record({"accelerated": _SAMPLES})})),
        "versions": mapping_of(TEXT),
        "time": maybe(TIME),
    },
)
"""Of every runner."""

EVALUATED: Kind = record(
    {
        **dict.fromkeys(("task", "cache", "quant", "fingerprint", "command"), TEXT),
        "versions": mapping_of(TEXT),
        "success_rate": maybe(SHARE),
        "success_interval": BOUNDS,
        **dict.fromkeys(("n_episodes", "n_success", "n_errors"), WHOLE),
        "errors": list_of(record({"seed": WHOLE, "error": maybe(TEXT)})),
        "mean_score": maybe(NUMBER),
        "task_metrics": mapping_of(NUMBER),
        "latency": maybe(_LATENCY),
        "flops": _FLOPS,
        "stats": _STATS,
        "baseline": maybe(_BASELINE),
    },
    {
        "world": TEXT,
        "machines": list_of(TEXT),
        "embodied": _MEANS,
        "realtime": maybe(record({"said": TEXT, "mean": NOT_NEGATIVE})),
        "calibration": ANYTHING,
        "quantisation": maybe(_QUANTISATION),
        "adapted": list_of(TEXT),
        "wall_s": NOT_NEGATIVE,
        "finished": TEXT,
        "time": maybe(TIME),
    },
)
"""Of an evaluation."""

METRICS: Kind = record(
    {"step": WHOLE},
    dict.fromkeys(("loss", "lr", "val_loss", "success_rate", "mean_score"), maybe(NUMBER)),
)
"""A line of a training's metrics.jsonl."""

STATUS: Kind = record({"status": TEXT})

_SAMPLER = record(
    {},
    {
        "kind": TEXT,
        "steps": maybe(WHOLE),
        "timesteps": maybe(list_of(WHOLE)),
        "spacing": maybe(TEXT),
        "variance_type": maybe(TEXT),
        **dict.fromkeys(("power", "eta", "order"), maybe(NUMBER)),
        "stochastic": maybe(YES_NO),
    },
)
CONFIG: Kind = record(
    {"fingerprint": HASH},
    {
        "task": ANYTHING,
        "runner": record({}, {"name": TEXT}),
        "logger": maybe(record({})),
        "study": TEXT,
    },
)
"""Of every runner."""

EVALUATION: Kind = record(
    {
        "fingerprint": HASH,
        "task": record({"name": TEXT}, {"world": TEXT}),
        "cache": record({"name": TEXT}),
        "n_episodes": COUNT,
    },
    {
        "quant": record({}, {"name": TEXT}),
        "engine": record({}, {"name": TEXT}),
        "sampler": maybe(_SAMPLER),
        "realtime": maybe(record({})),
        "warm": maybe(record({"start": COUNT})),
        "start_seed": WHOLE,
        "noise_seed": WHOLE,
    },
)
"""Of an evaluation."""
