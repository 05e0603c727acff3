"""What W&B is told of a run: its name, what it ran in, and its result under W&B's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .formatting import task_words
from .machine import cpu
from .studies import embodied as embodied_summary
from .studies.arms import arm_words


def wandb_run(job: Any, job_type: str, *tags: str) -> dict[str, Any]:
    """What `wandb.init` is to know of a job: a run of its own, found again when it goes on."""
    return {
        "project": job.logger.project,
        "entity": job.logger.entity,
        "id": f"{job.settings.study}-{job.fingerprint}",
        "name": name_of(job, job_type),
        "group": job.settings.study,
        "job_type": job_type,
        "tags": [job.task.name, *tags],
    }


def name_of(job: Any, job_type: str) -> str:
    """As `run_name`; the checkpoint's own sampler is not worth a word."""
    chosen = getattr(job, "sampler", None)
    own = chosen is not None and chosen.name == "checkpoint"
    config = {k: v for k, v in job.config.items() if not (own and k == "sampler")}
    return run_name(config, job_type, job.name)


def run_name(config: Mapping[str, Any], job_type: str, folder: str) -> str:
    """What a person calls a run; its folder's name, without the hash, where it evaluates nothing.

    Example:
        >>> cache = {"name": "hash_ab", "steps": 10}
        >>> run_name({"task": {"name": "kitchen"}, "cache": cache}, "eval", "")
        'kitchen hash_ab S=10'
        >>> run_name({}, "train", "kitchen_train_s0_0123abcd")
        'kitchen train s0'
    """
    if job_type != "eval":
        return " ".join(folder.split("_")[:-1]) or folder
    task = config["task"]
    name = task_words({"task": str(task["name"]), "world": task.get("world")})
    seed = config.get("noise_seed")
    return f"{name} {arm_words(config)}" + (f" noise {seed}" if seed else "")


def wandb_config(config: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    """A job's settings, and what its numbers depend on besides them."""
    return {**config, "versions": dict(versions), "cpu": cpu()}


def summary_values(result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a result under W&B's summary names: ours, and diffusion_policy's test/*."""
    low, high = result["success_interval"]
    values = {
        **{
            k: result[k]
            for k in ("success_rate", "n_episodes", "n_errors", "wall_s", "fingerprint")
        },
        "success_low": low,
        "success_high": high,
        "test/mean_score": result["mean_score"],
        **{f"test/{k}": v for k, v in result["task_metrics"].items()},
        **{f"flops/{k}": v for k, v in result["flops"].items() if v is not None},
        **{f"time/{k}": v for k, v in result["time"].items()},
        **embodied_summary.summary_values(result),
    }
    if result["latency"]:
        values |= latency_values(result["latency"])
    if quantisation := result.get("quantisation"):
        sizes = {k: quantisation[f"bytes_{k}"] for k in ("before", "after")}
        values |= {f"quant/bytes_{k}": v for k, v in sizes.items()}
        values["quant/error_max"] = max(x["error"] for x in quantisation["layers"])
    if realtime := result.get("realtime"):
        values["realtime/delay_steps"] = realtime["mean"]
    if result["baseline"] and result["baseline"]["folder"]:
        values |= {
            f"paired/{k}": v for k, v in result["baseline"].items() if isinstance(v, (int, float))
        }
    return values


def latency_values(latency: Mapping[str, Any]) -> dict[str, Any]:
    """latency/times_as_fast as every table has it, with its interval; percentiles of each arm."""
    values = {f"latency/{k}": latency.get(k) for k in ("times_as_fast", "engine_ratio", "warning")}
    if bounds := latency.get("times_as_fast_interval"):
        values |= dict(zip(("latency/times_low", "latency/times_high"), bounds, strict=True))
    for arm in ("accelerated", "plain", "engine"):
        for key, value in (latency.get(arm) or {}).items():
            values |= (
                _of_stage(arm, key, value)
                if isinstance(value, Mapping)
                else {f"latency/{arm}_{key}": value}
            )
    return {k: v for k, v in values.items() if v is not None}


def _of_stage(arm: str, key: str, percentiles: Mapping[str, float]) -> dict[str, float]:
    """latency/accelerated_encode_p50_ms, as the percentiles of the whole query are called."""
    stage = key.removesuffix("_ms")
    return {f"latency/{arm}_{stage}_{name}_ms": value for name, value in percentiles.items()}
