"""The command line: compose and check everything first, then let Hydra run the jobs."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from .registry import RUNNERS, prepare
from .settings import PROJECT, UserError, check_writable
from .store import StoreError

CONF = PROJECT / "conf"
UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'")
SHOW_ONLY = ("help", "hydra_help", "cfg", "info", "shell_completion")


def run_name(*, _root_: DictConfig) -> str:
    """Resolver `${run_name:}`: the run's folder; it ends in a hash of what changes an episode."""
    return str(prepare(_root_).name)


def expand(overrides: Sequence[str], multirun: bool) -> list[list[str]]:
    """The overrides of every job of a sweep."""
    if not multirun:
        return [list(overrides)]
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides=list(overrides))
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for job in jobs]


def validate(argv: Sequence[str]) -> None:
    """Compose and check every job of a command line; nothing is written.

    Raises:
        UserError: the first mistake, in one line.
    """
    args = get_args_parser().parse_args(list(argv))
    if any(getattr(args, name) for name in SHOW_ONLY):
        return
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            for overrides in expand(args.overrides, args.multirun):
                cfg = _compose(overrides)
                with open_dict(cfg):
                    hydra_cfg = cfg.pop("hydra")
                prepare(cfg)
                where = OmegaConf.create({**cfg, "hydra": hydra_cfg})
                check_writable(
                    Path(where.hydra.sweep.dir if args.multirun else where.hydra.run.dir)
                )
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_first_lines(error)) from error


def _compose(overrides: list[str]) -> DictConfig:
    try:
        return compose("config", overrides, return_hydra_config=True)
    except ConfigCompositionException as error:
        unknown = UNKNOWN_KEY.search(str(error))
        if unknown is None:
            raise
        key = unknown[1]
        cfg = compose("config", [o for o in overrides if not o.startswith(f"{key}=")])
        parent = key.rpartition(".")[0]
        node = OmegaConf.select(cfg, parent) if parent else cfg
        allowed = ", ".join(node) if isinstance(node, DictConfig) else "nothing below it"
        raise UserError(f"{key}: unknown key, allowed: {allowed}") from error


def _first_lines(error: Exception) -> str:
    """Hydra's message without its hints on internals."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [
        line
        for line in lines
        if line and not line.startswith(("full_key", "object_type", "Config search", "provider"))
    ]
    return " ".join(kept)


def app(cfg: DictConfig) -> None:
    """One job, inside Hydra."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    job = prepare(cfg)
    runner = RUNNERS[job.runner.name]
    try:
        result = runner.run(job, folder)
    except StoreError as error:  # Hydra would show a traceback and end with 1
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(runner.render(result, _short(folder)))


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def run(argv: Sequence[str]) -> int:
    """0: done; 2: a mistake of the user; 1: a failure; 130: Ctrl-C."""
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    argv = sorted(
        argv, key=lambda word: word not in ("-m", "--multirun")
    )  # argparse wants it first
    sys.argv[1:] = argv
    try:
        validate(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(app)()
    except (UserError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    except SystemExit as error:
        return int(error.code or 0)
    return 0
