"""A command line as what Hydra is asked to do: the jobs of a study, unaccelerated ones first."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import UserError
from ..overrides import UNACCELERATED, key_of, without_method
from ..places import PROJECT
from .composed import Composed
from .ray_worker import FOLDER

LAUNCHER = "hydra/launcher"
LAUNCHERS = ("basic", "submitit_local", "submitit_slurm", "ray")
PLUGINS = {  # of what comes before the first _ of a launcher's name: module, package, our extra
    "submitit": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher", "slurm"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "hydra-ray-launcher", "ray"),
}

SHORT = {"^realtime=": "realtime.enabled=", r"^serve\.": "runner."}


@dataclass(frozen=True)
class Launch:
    """One call of Hydra.

    Attributes:
        argv: what it is given.
        folders: of its jobs, one or more.
        baselines: of the unaccelerated runs that its jobs ask for.
        multirun: False for a single run.
        fail_fast: as in the settings.
        composed: a single run's configuration, where Hydra need not compose it again.
    """

    argv: list[str]
    folders: list[Path]
    baselines: set[Path]
    multirun: bool
    fail_fast: bool
    composed: Composed | None = None


def with_params(words: Sequence[str], params: Mapping[str, object]) -> list[str]:
    """An experiment's swept settings as words; what was typed replaces them.

    A group that was typed (`cache=none`) also replaces the swept settings below it (`cache.steps`).
    """
    typed = {key_of(word) for word in words}
    kept = [
        f"{key}={value}"
        for key, value in params.items()
        if not any(key == said or key.startswith(f"{said}.") for said in typed)
    ]
    return [*kept, *words]


def sweeps_of(
    words: Sequence[str], params: Mapping[str, object], also: Sequence[Mapping[str, object]]
) -> list[list[str]]:
    """All sweeps of an experiment.

    A further one is left out where something is typed that it sets otherwise than the first one,
    which sweeps it.
    """
    swept = {key_of(word) for word in words} & params.keys()
    further = [more for more in also if not swept & more.keys()]
    return [
        with_params(words, params),
        *(with_params(with_params(words, more), params) for more in further),
    ]


def unaccelerated(words: Sequence[str]) -> list[str]:
    """The same sweep of the plain policy."""
    return [*without_method(words), *UNACCELERATED]


def check_launcher(words: Sequence[str]) -> None:
    """Refuse launchers that cannot run these jobs, and fail_fast where it would do nothing.

    Raises:
        UserError: one line with the reason.
    """
    name = next((w.partition("=")[2] for w in words if key_of(w) == LAUNCHER), "basic")
    if "joblib" in name:
        raise UserError(
            f"{LAUNCHER} must be {', '.join(LAUNCHERS[:-1])} or {LAUNCHERS[-1]}, got {name}: "
            "joblib's workers may not start the processes that simulators need"
        )
    if name.partition("_")[0] not in PLUGINS:
        return
    module, package, extra = PLUGINS[name.partition("_")[0]]
    if find_spec("hydra_plugins") is None or find_spec(module) is None:
        raise UserError(f'{LAUNCHER}={name} needs {package}: pip install "skipstep[{extra}]"')
    if any(key_of(w) == "fail_fast" and not w.lower().endswith("=false") for w in words):
        raise UserError(
            f"fail_fast=true needs {LAUNCHER}=basic, got {name}: its jobs run side by side"
        )


def spelled_out(argv: Sequence[str]) -> list[str]:
    """The words as Hydra wants them: -m first, and realtime=true and serve.port=0 in full."""
    words = sorted(argv, key=lambda word: word not in ("-m", "--multirun"))
    for short, full in SHORT.items():
        words = [re.sub(short, full, word) for word in words]
    return words


def let_children_import(words: Sequence[str]) -> None:
    """Jobs of another launcher are processes that import `runners` from wherever they start."""
    if not any(key_of(word) == LAUNCHER for word in words):
        return
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(PROJECT) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *filter(None, known)])
    os.environ[FOLDER] = str(Path.cwd())  # conf/hydra/launcher/ray.yaml hands it on
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use
