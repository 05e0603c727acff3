"""The command line: compose and check everything first, then let Hydra run the jobs."""

from __future__ import annotations

import gc
import logging
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from .commands import COMMANDS, RUNS, WORDS, run_command
from .errors import UserError
from .launch.composed import Composed
from .launch.composing import compose_checked, first_lines
from .launch.ends import ended_in_one_line, jobs_ended_in_one_line, terminated_as_interrupted
from .launch.helping import help_text, wants_help
from .launch.mistakes import check_words
from .launch.prepared import Prepared
from .launch.sweeps import (
    Launch,
    check_launcher,
    let_children_import,
    spelled_out,
    sweeps_of,
    unaccelerated,
)
from .overrides import key_of
from .places import PROJECT, check_writable, is_checkout
from .plugins import load_plugins
from .registry import prepare, runner_of
from .store.folder import DamagedFileError, StoreError, note_failure
from .store.shards import whole_run, within
from .studies.asked import note_asked

CONF = PROJECT / "conf"
SHOW_ONLY = ("help", "hydra_help", "cfg", "info", "shell_completion")
PREPARED = Prepared(lambda cfg: prepare(cfg))


def run_name(*, _root_: DictConfig) -> str:
    """Resolver `${run_name:}`: the run's folder; it ends in a hash of what changes an episode."""
    return within(PREPARED.job(_root_).name, _root_.shard)


def expand(words: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """A sweep as words for Hydra, and the overrides of each of its jobs.

    Hydra first composes what is not swept, and would look for `cache.steps` in the default cache: a
    choice of one value is left to the jobs.
    """
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides=list(words))
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    given = []
    for word, override in zip(words, parsed, strict=True):
        key, _, value = word.partition("=")
        nested = "." in key and not key_of(word).startswith("hydra")
        single = nested and value and not override.is_sweep_override()
        given.append(f"{key}=choice({value})" if single else word)
    return given, [list(job) for job in jobs]


def validate(argv: Sequence[str]) -> list[Launch]:
    """Compose and check every job of a command line; nothing is written, and nothing compiled.

    Returns:
        What Hydra is to be called with; none for words like --help, which run nothing.

    Raises:
        UserError: the first mistake, in one line.
    """
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    args = get_args_parser().parse_args(list(argv))
    load_plugins(args.overrides, CONF)
    if any(getattr(args, name) for name in SHOW_ONLY):
        return []
    check_launcher(args.overrides)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            is_study, params, also = _experiment(args.overrides)
            if args.multirun or is_study:
                sweeps = sweeps_of(args.overrides, params, also)
                launches = [_checked_sweep(words) for words in sweeps]
            else:
                sweeps = [args.overrides]
                launches = [_checked(list(argv), sweeps, multirun=False)]
            folders = {folder for launch in launches for folder in launch.folders}
            if all(launch.baselines <= folders for launch in launches):
                return launches
            return [_checked_sweep(unaccelerated(sweeps[0])), *launches]
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(first_lines(error)) from error
    except (OSError, DamagedFileError) as error:  # of a path or a file that the settings name
        raise UserError(error) from error


def _experiment(
    words: Sequence[str],
) -> tuple[bool, Mapping[str, object], Sequence[Mapping[str, object]]]:
    """Whether these words name a sweep without -m, what it sweeps, and its further sweeps."""
    own = [w for w in words if key_of(w) == "experiment" or key_of(w).startswith("hydra")]
    if not own:
        return False, {}, ()
    cfg = compose_checked(own)
    is_study = cfg.hydra.mode == RunMode.MULTIRUN
    return is_study, cfg.hydra.sweeper.get("params") or {}, cfg.also or ()


def _checked_sweep(words: Sequence[str]) -> Launch:
    given, jobs = expand(words)
    return _checked(["--multirun", *given, "hydra.sweeper.params=null"], jobs, multirun=True)


def _checked(argv: list[str], jobs: Sequence[Sequence[str]], *, multirun: bool) -> Launch:
    """Prepare every job; only the last one is kept: each may hold another policy."""
    composed = [compose_checked(overrides) for overrides in jobs]
    from accel.kernels.facts import expecting  # a mistake that is found by now needs no torch

    folders, baselines = [], set()
    for cfg in composed:
        with expecting():
            job, study = PREPARED.job(cfg), Path(cfg.hydra.sweep.dir)
            folder = study / run_name(_root_=cfg) if multirun else Path(cfg.hydra.run.dir)
        folders.append(folder)
        check_writable(folder)
        if cfg.baseline and cfg.runner.name == "evaluate":
            baselines.add(study / job.baseline_name)
        _collect_again()
    plain = not multirun and argv == jobs[0]  # without options of Hydra's
    return Launch(
        argv, folders, baselines, multirun, cfg.fail_fast, Composed.here(cfg) if plain else None
    )


def _collect_again() -> None:
    """Where `skipstep.run` has turned the collector off; what is there by now is left out of it."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def job_of(overrides: Sequence[str]) -> Any:
    """The checked job of one command line's words, for what runs jobs by itself."""
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    load_plugins(overrides, CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose_checked(overrides)
    with open_dict(cfg):
        cfg.pop("hydra")
    return prepare(cfg)


def app(cfg: DictConfig) -> None:
    """One job, inside Hydra; one that fails in a sweep says so and lets the others go on."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        _run_job(cfg, folder)
        return
    try:
        _run_job(cfg, folder)
    except Exception as error:
        if not isinstance(error, StoreError):  # of a folder that is another process's
            note_failure(folder)
        print(f"failed: {_short(folder)}: {' '.join(str(error).split())}", file=sys.stderr)
        if cfg.fail_fast:
            raise SystemExit(1) from error


def _run_job(cfg: DictConfig, folder: Path) -> None:
    job = PREPARED.take(cfg)
    runner = runner_of(job.runner.name)
    try:
        with ended_in_one_line():
            result = runner.run(job, folder)
    except StoreError as error:  # Hydra would show a traceback and end with 1
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(runner.render(result, _short(folder)))


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def run(argv: Sequence[str]) -> int:
    """0: done; 2: a mistake of the user; 1: a failure; 130: Ctrl-C, or SIGTERM."""
    logging.raiseExceptions = False  # a log file on a full disk is no reason for tracebacks
    try:
        with terminated_as_interrupted():
            return _run(argv)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130


def _run(argv: Sequence[str]) -> int:
    if argv and argv[0] in COMMANDS:
        return run_command(argv[0], argv[1:])
    if argv and argv[0] in RUNS:
        argv = [RUNS[argv[0]][0], *argv[1:]]
    if wants_help(argv):
        print(help_text(argv, CONF, WORDS, "python run.py" if is_checkout() else "skipstep"))
        return 0
    argv = spelled_out(argv)
    PREPARED.forget()
    # conf/hydra/launcher/ gives the plugin's launchers our defaults, under their own names
    warnings.filterwarnings("ignore", ".*\n.*is validated against ConfigStore schema")
    try:
        check_words(argv, WORDS)
        launches = validate(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not launches:
        return _hydra(argv)
    if launches[0].multirun:
        PREPARED.forget()  # its job's turn has not come
        folders = [whole_run(folder) for launch in launches for folder in launch.folders]
        note_asked(folders, shlex.join(["python", "run.py", *argv]))
    let_children_import(argv)
    code = 0
    for launch in launches:
        code = max(code, _hydra(launch.argv, launch.composed))
        if code > 1 or (code and launch.fail_fast):
            break
    if launches[-1].multirun and code < 2:
        from .launch.summary import summary

        text, whole = summary([folder for launch in launches for folder in launch.folders])
        print(text)
        code = max(code, int(not whole))
    return code


def _hydra(argv: Sequence[str], composed: Composed | None = None) -> int:
    sys.argv[1:] = argv
    try:
        if composed:
            composed.start(app)
        else:
            with jobs_ended_in_one_line():
                hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(app)()
    except (UserError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as error:
        return int(error.code or 0)
    return 0
