"""From a composed configuration to the plans that runner=show draws; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from accel import CACHES, QUANTIZERS, CachePlan, resolve
from accel.caches import settings_of
from accel.caches.method import check_calibration
from accel.caches.saved import PLAN_FILE
from accel.calibration import METRICS, Calibration
from accel.plans.able import check_branches, check_sites
from policies import DiffusionPolicy

from ..acceleration.calibration import find
from ..jobs.calibration_choice import Recipe, check_recipe, recipe_of
from ..jobs.checkpoint import load, policy_and_task
from ..jobs.checks import check_cache
from ..jobs.chosen import settings_and_logger
from ..jobs.settings import SamplerChoice, Settings, UserError, build, choose, digest
from ..store.files import DamagedFileError, read_config, read_result
from ..store.names import CONFIG, RESULT


@dataclass
class ShowConfig:
    """What is drawn; conf/runner/show.yaml says more."""

    name: str = "show"
    compare: str | None = None
    metric: str = "cos"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(
                f"runner.metric must be one of {', '.join(METRICS)}, got {self.metric!r}"
            )


@dataclass(frozen=True)
class Source:
    """Something that a plan comes from.

    Attributes:
        label: for titles and tables.
        cache: a config of `CACHES`, or a plan that was read.
        digest: of the plan that was run, where a run recorded it.
    """

    label: str
    cache: Any
    digest: str | None = None

    def identity(self, policy: DiffusionPolicy) -> Any:
        if isinstance(self.cache, CachePlan):
            return self.cache.digest()
        return CACHES[self.cache.name].identity(self.cache, policy)


@dataclass(frozen=True)
class ShowJob:
    """Checked settings of a picture of one plan, or of two side by side.

    plain: the checkpoint's policy with its own sampler, which shares of FLOPs are of.
    """

    settings: Settings
    policy: DiffusionPolicy
    plain: DiffusionPolicy
    calibration: Calibration | None
    sources: tuple[Source, ...]
    runner: ShowConfig
    checkpoint: str
    task: str
    fingerprint: str
    name: str
    config: dict[str, Any]


def plans_of(job: ShowJob) -> tuple[CachePlan, ...]:
    """The plan of each source.

    Raises:
        PlanError: a plan that was made for another policy.
        UserError: a run whose plan cannot be made again with this policy.
    """
    plans = []
    for source in job.sources:
        plan = resolve(job.policy, source.cache, job.calibration)
        if source.digest not in (None, plan.digest()):
            raise UserError(
                f"runner.compare={source.label} ran the plan {source.digest}, with this checkpoint "
                f"and sampler it is {plan.digest()}: choose those of the run"
            )
        plans.append(plan)
    return tuple(plans)


def prepare_show(cfg: DictConfig, runner: ShowConfig) -> ShowJob:
    """Check the cache, and what it is compared with, against the checkpoint.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    settings, _ = settings_and_logger(cfg)
    cache = choose(CACHES, cfg.cache, "cache")
    if choose(QUANTIZERS, cfg.quant, "quant").name != "none":
        raise UserError(
            f"quant must be none with runner=show, got {cfg.quant.name}: it changes no plan"
        )
    sampler: SamplerChoice = build(SamplerChoice, cfg.sampler, "sampler")
    policy, task, checkpoint = policy_and_task(cfg.task, sampler, settings.device, simulated=False)
    check_sites(policy, "runner=show")
    recipe = recipe_of(cfg, settings, task, policy)
    check_cache(policy, cache, recipe)
    sources = [Source(f"cache={cache.name}", cache)]
    if runner.compare is not None:
        other = compared(runner.compare)
        if not isinstance(other.cache, CachePlan):
            check_cache(policy, other.cache, recipe)
        sources.append(other)
    calibration = calibration_for(recipe, policy, settings, sources)
    fingerprint = digest(
        {
            "runner": asdict(runner) | {"compare": None},
            "task": task.name,
            "policy": policy.fingerprint(),
            "plans": [source.identity(policy) for source in sources],
            "calibration": calibration.digest() if calibration else None,
        }
    )
    job = ShowJob(
        settings=settings,
        policy=policy,
        plain=load(checkpoint, cfg.task),
        calibration=calibration,
        sources=tuple(sources),
        runner=runner,
        checkpoint=checkpoint,
        task=task.name,
        fingerprint=fingerprint,
        name=f"show_{task.name}_{cache.name}_{fingerprint}",
        config={
            **asdict(settings),
            "task": {"name": task.name, "checkpoint": checkpoint},
            "cache": settings_of(cache),
            "sampler": policy.config.sampler.settings(),
            "runner": asdict(runner),
            "fingerprint": fingerprint,
        },
    )
    plans_of(job)
    return job


def calibration_for(
    recipe: Recipe, policy: DiffusionPolicy, settings: Settings, sources: Sequence[Source]
) -> Calibration | None:
    """What calibrated caches of this policy rest on; None where there is none and none is needed.

    Raises:
        UserError: one is needed and is not there; a picture is no reason to run episodes.
    """
    names = [getattr(source.cache, "name", None) for source in sources]
    needing = [name for name in names if name in CACHES and CACHES[name].calibrated]
    if needing:
        check_branches(policy, f"cache={needing[0]}")
    if needing or recipe.choice.path is not None:
        check_recipe(recipe, policy, settings)
    calibration = recipe.forced() or find(recipe, policy)
    if needing and calibration is None:
        raise UserError(
            f"cache={needing[0]} needs a calibration, which is not in {recipe.folder}; make it "
            f"with: python run.py runner=calibrate task={recipe.task} and the same settings"
        )
    for name in needing if calibration else ():
        check_calibration(calibration, policy, name, CACHES[name].needs)
    return calibration


def compared(text: str) -> Source:
    """The name of a cache, a plan file or a run folder, looked for in this order."""
    if text in CACHES:
        return Source(f"cache={text}", CACHES[text][0]())
    path = Path(text)
    if path.is_file():
        return Source(path.name, CachePlan.load(path))
    if (path / PLAN_FILE).is_file():
        return Source(path.name, CachePlan.load(path / PLAN_FILE))
    if (path / CONFIG).is_file():
        try:
            config = read_config(path / CONFIG) or {}
            if "cache" in config:
                cache = OmegaConf.create(config["cache"])
                return Source(path.name, choose(CACHES, cache, "cache"), _ran(path))
        except DamagedFileError as error:
            raise UserError(f"runner.compare: {error}") from error
    raise UserError(
        f"runner.compare must be one of {', '.join(CACHES)}, a plan file or the folder of a run "
        f"with a cache, got {text!r}"
    )


def _ran(folder: Path) -> str | None:
    """Hash of the plan that a finished evaluation ran."""
    found: str | None = (read_result(folder / RESULT) or {}).get("stats", {}).get("plan")
    return found
