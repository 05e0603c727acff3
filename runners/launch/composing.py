"""Words as a composed configuration, and Hydra's mistakes in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from skipstep.guessing import guess

from ..errors import UserError
from ..plugins import registered

UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'")


def compose_checked(overrides: Sequence[str]) -> DictConfig:
    """The configuration of these words, Hydra's own settings with it.

    Raises:
        UserError: a setting or a choice that is not there, with those that are.
    """
    _check_words(overrides)
    try:
        cfg = compose("config", list(overrides), return_hydra_config=True)
        if cfg.hydra.job.chdir:
            raise UserError(
                "hydra.job.chdir must be false, got true: paths, of settings and of what runs "
                "share, are relative to the folder in which the command is given"
            )
        return cfg
    except MissingConfigException as error:
        if not error.options:
            raise
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        raise UserError(_no_choice(group, name, error.options)) from error
    except ConfigCompositionException as error:
        unknown = UNKNOWN_KEY.search(str(error))
        if unknown is None:
            raise
        key = unknown[1]
        cfg = compose("config", [o for o in overrides if not o.startswith(f"{key}=")])
        parent = key.rpartition(".")[0]
        node = OmegaConf.select(cfg, parent) if parent else cfg
        allowed = ", ".join(node) if isinstance(node, DictConfig) else "nothing below it"
        near = guess(key, _keys(cfg))
        raise UserError(f"{key}: unknown key, allowed: {allowed}{near}") from error


def _no_choice(group: str, name: str, allowed: Sequence[str]) -> str:
    """Why a group has no such choice."""
    if registered(group, name):
        return (
            f"{group}={name} needs a file conf/{group}/{name}.yaml beside the plug-in, "
            "and there is none"
        )
    near = guess(name, allowed)
    return f"{group} must be one of {', '.join(allowed)}, got {name!r}{near}"


def _keys(cfg: DictConfig) -> list[str]:
    """All settings, in full: task, task.checkpoint, n_episodes."""
    own = [str(key) for key in cfg if key != "hydra"]
    nodes = {key: OmegaConf.select(cfg, key) for key in own}
    blocks = {key: map(str, node) for key, node in nodes.items() if isinstance(node, DictConfig)}
    return own + [f"{key}.{name}" for key, names in blocks.items() for name in names]


def _check_words(words: Sequence[str]) -> None:
    """Refuse what Hydra takes in silence, or refuses in words of its own or with a traceback."""
    loader = GlobalHydra.instance().config_loader()
    for given in OverridesParser.create(config_loader=loader).parse_overrides(list(words)):
        _check_word(given, loader.get_group_options(given.key_or_group))


def _check_word(given: Override, choices: Sequence[str]) -> None:
    key, typed = given.key_or_group, str(given.input_line).partition("=")[2]
    if key.partition(".")[0] == "also":
        raise UserError(f"also is set by an experiment, not on the command line, got {typed}")
    if given.is_sweep_override():
        if key.partition(".")[0].partition("/")[0] in ("experiment", "hydra"):
            raise UserError(f"{key} cannot be swept, got {typed}")
        raise UserError(f"{key}={typed}: several values need -m; a list is written [a,b]")
    value = given.value()
    if choices and not given.is_delete() and not isinstance(value, str | list):
        got = "null" if value is None else value
        raise UserError(f"{key} must be one of {', '.join(choices)}, got {got}")


def first_lines(error: Exception) -> str:
    """Hydra's message without its hints on internals."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [
        line
        for line in lines
        if line and not line.startswith(("full_key", "object_type", "Config search", "provider"))
    ]
    return " ".join(kept)
