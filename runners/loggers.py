"""W&B: one run per job, id = study + fingerprint, complete in its newest file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .store.folder import film_of
from .studies import embodied as embodied_summary

EPISODE_COLUMNS = (
    "seed",
    "status",
    "success",
    "score",
    "n_steps",
    "n_queries",
    "seconds",
    "attempts",
    "error",
)
COLUMNS = (*EPISODE_COLUMNS, *embodied_summary.METRICS)


def wandb_run(job: Any, job_type: str, *tags: str) -> dict[str, Any]:
    """What `wandb.init` is to know of a job: a run of its own, found again when it goes on."""
    return {
        "project": job.logger.project,
        "entity": job.logger.entity,
        "id": f"{job.settings.study}-{job.fingerprint}",
        "name": job.name,
        "group": job.settings.study,
        "job_type": job_type,
        "tags": [job.task.name, *tags],
    }


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


def has_key() -> bool:
    """Whether W&B knows who sends."""
    import wandb

    return wandb.login(prompt=False, verify=False)


TRIES, WAIT_S = 10, 1.0  # to start a W&B run whose name is still taken


class NullLogger:
    """logger=none."""

    def __init__(self, folder: Path, run: Mapping[str, Any], config: dict[str, Any]) -> None:
        pass

    @staticmethod
    def check() -> None:
        """Refuse, before anything runs, what would fail at the start of the run."""

    def episode(self, record: Mapping[str, Any], success_rate: float) -> None:
        """One finished episode and the running rate."""

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """A row of numbers of a training."""

    def finish(
        self, summary: Mapping[str, Any], episodes: list[dict[str, Any]], folder: Path
    ) -> None:
        """The result, all episodes as a table, and the videos."""

    def close(self, exit_code: int) -> None:
        """End the run; a failed one says so."""


class WandbLogger(NullLogger):
    """logger=offline: files under <run folder>/wandb, to be sent with `wandb sync`."""

    mode = "offline"

    @staticmethod
    def check() -> None:
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "logger=offline needs wandb: pip install wandb, or logger=none"
            ) from error

    def __init__(self, folder: Path, run: Mapping[str, Any], config: dict[str, Any]) -> None:
        self.run = self._started(folder, run, config)
        self.run.define_metric("episode")
        self.run.define_metric("test/*", step_metric="episode")
        self.n_episodes = 0

    def _started(self, folder: Path, run: Mapping[str, Any], config: dict[str, Any]) -> Any:
        """Start under the run's own name, which a run that was killed may hold a little longer.

        Its service ends with it, unless it was that of the process which started it: that one goes
        on, and would hold the name for as long. So each run has a service of its own.
        """
        import wandb

        os.environ.pop("WANDB_SERVICE", None)

        for left in reversed(range(TRIES)):
            try:
                return wandb.init(
                    mode=self.mode,  # type: ignore[arg-type]
                    dir=folder,
                    config=config,
                    resume="allow",
                    reinit="finish_previous",
                    settings=wandb.Settings(silent=True, console="off"),
                    **run,
                )
            except Exception as error:  # of a module that wandb keeps to itself
                if "is in use" not in str(error) or not left:
                    raise
                time.sleep(WAIT_S)
        raise AssertionError("unreachable")

    def episode(self, record: Mapping[str, Any], success_rate: float) -> None:
        self.n_episodes += 1
        numbers = {
            f"test/{k}": record[k]
            for k in EPISODE_COLUMNS
            if isinstance(record.get(k), (bool, int, float))
        }
        self.run.log(
            {
                "episode": self.n_episodes,
                **{k: float(v) for k, v in numbers.items()},
                **{f"test/{k}": v for k, v in embodied_summary.flat(record).items()},
                "test/success_rate": success_rate,
            }
        )

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        self.run.define_metric("train/step")
        self.run.define_metric("train/*", step_metric="train/step")
        self.run.log({f"train/{k}": v for k, v in {**values, "step": step}.items()})

    def finish(
        self, summary: Mapping[str, Any], episodes: list[dict[str, Any]], folder: Path
    ) -> None:
        import wandb

        whole = [{**record, **embodied_summary.flat(record)} for record in episodes]
        pixels = [c for c in embodied_summary.IN_PIXELS if any(c in record for record in whole)]
        columns: list[str | int] = [*COLUMNS, *pixels]
        rows = [[record.get(str(c)) for c in columns] for record in whole]
        if rows:
            self.run.log({"episodes": wandb.Table(columns=columns, data=rows)})
        for record in episodes:
            if path := film_of(folder, record):
                video = wandb.Video(str(path), format="mp4")
                self.run.log({f"test/sim_video_{record['seed']}": video})
        scores = {f"test/sim_max_reward_{r['seed']}": r["score"] for r in episodes}
        self.run.summary.update({**summary, **scores})

    def close(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)


class OnlineLogger(WandbLogger):
    """logger=wandb."""

    mode = "online"

    @staticmethod
    def check() -> None:
        WandbLogger.check()
        if not has_key():
            raise ValueError(
                "logger=wandb needs a key: run `wandb login`, set WANDB_API_KEY, "
                "or use logger=offline"
            )


LOGGERS: dict[str, type[NullLogger]] = {
    "offline": WandbLogger,
    "wandb": OnlineLogger,
    "none": NullLogger,
}
