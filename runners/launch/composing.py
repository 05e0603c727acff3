"""Words as a composed configuration, and Hydra's mistakes in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from ..errors import UserError

UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'")


def compose_checked(overrides: Sequence[str]) -> DictConfig:
    """The configuration of these words, Hydra's own settings with it.

    Raises:
        UserError: a setting that is not there, with those that are.
    """
    _check_choices(overrides)
    try:
        return compose("config", list(overrides), return_hydra_config=True)
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


def _check_choices(words: Sequence[str]) -> None:
    """Refuse null, numbers and mappings for a group, for which Hydra has a traceback."""
    loader = GlobalHydra.instance().config_loader()
    for given in OverridesParser.create(config_loader=loader).parse_overrides(list(words)):
        value, allowed = given.value(), loader.get_group_options(given.key_or_group)
        if allowed and not given.is_delete() and not isinstance(value, str | list):
            got = "null" if value is None else value
            raise UserError(f"{given.key_or_group} must be one of {', '.join(allowed)}, got {got}")


def first_lines(error: Exception) -> str:
    """Hydra's message without its hints on internals."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [
        line
        for line in lines
        if line and not line.startswith(("full_key", "object_type", "Config search", "provider"))
    ]
    return " ".join(kept)
