"""W&B: one run per job, id = study + fingerprint, complete in its newest file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib import import_module
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
UNCHARTED = ("seed", "attempts")  # numbers of the table that say nothing as a curve
PLACES = {  # where W&B keeps what it would put under $HOME: a run's folder holds all of it
    "WANDB_DATA_DIR": "wandb/data",
    "WANDB_CACHE_DIR": "wandb/cache",
    "WANDB_ARTIFACT_DIR": "wandb/artifacts",
}
PLAN_DRAWING = "runners.show.drawings:plan_grid"  # of a room above, imported when it is asked for
COLUMNS = (*EPISODE_COLUMNS, *embodied_summary.METRICS)


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

    def pictures(self, title: str, plan: Any, latency: Mapping[str, Any] | None) -> None:
        """What an evaluation ran: its plan, and the times of single queries where there are any."""

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
        self.elsewhere = {name: os.environ.get(name) for name in PLACES}
        for name, place in PLACES.items():
            (folder / place).mkdir(parents=True, exist_ok=True)
            os.environ[name] = str((folder / place).absolute())
        try:
            self.run = self._started(folder, run, config)
        except BaseException:
            self._leave()
            raise
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
            if k not in UNCHARTED and isinstance(record.get(k), (bool, int, float))
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

    def pictures(self, title: str, plan: Any, latency: Mapping[str, Any] | None) -> None:
        import wandb

        from .svg import picture

        module, _, name = PLAN_DRAWING.partition(":")
        plan_grid = getattr(import_module(module), name)
        said = f"{plan.mask.mean():.1%} of cells computed"
        drawn = picture(f"Plan of {title}", [(said, plan_grid(plan))])
        self.run.log({"plan": wandb.Html(drawn, inject=False)})
        for arm, samples in ((latency or {}).get("samples_ms") or {}).items():
            self.run.log({f"latency/{arm}_ms": wandb.Histogram(samples)})

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
        self._leave()

    def _leave(self) -> None:
        """Give W&B's folders back to whoever runs next in this process."""
        for name, value in self.elsewhere.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


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
