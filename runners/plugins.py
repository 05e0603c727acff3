"""Modules of others, which add to our tables: `plugins: [my_lab.skipstep_plugin]`.

They are imported before anything is composed, so that their names are known and their YAML is found
like ours. docs/how-to/plugins.md has a whole one.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from .errors import UserError
from .overrides import key_of

log = logging.getLogger(__name__)

GROUP = "skipstep.plugins"
SETTING = "plugins"
FILES = ("config.yaml", "local/default.yaml")  # of conf/; what a later one says replaces it
LOADED: dict[str, ModuleType] = {}

ROOMS = ("accel", "policies", "envs", "runners")  # where the tables are
TABLES = {  # group of conf/ -> the table of its names
    "cache": "CACHES",
    "quant": "QUANTIZERS",
    "engine": "ENGINES",
    "sampler": "KINDS",
    "task": "TASKS",
    "runner": "RUNNERS",
    "logger": "LOGGERS",
}
ADDED: set[tuple[str, str]] = set()  # (table, name)

Entry = TypeVar("Entry")


def register(table: dict[str, Entry], name: str, entry: Entry) -> None:
    """Add to a table, of which docs/how-to/plugins.md has a list: CACHES, TASKS, FAMILIES, ...

    Raises:
        ValueError: the name is taken.
        TypeError: the entry is not of the kind of the others.
    """
    called = _called(table)
    if name in table:
        raise ValueError(f"{name!r} is taken in {called}: taken are {', '.join(table)}")
    if table and not any(_alike(entry, other) for other in table.values()):
        kind = _kind(next(iter(table.values())))
        raise TypeError(f"an entry of {called} must be {kind}, got {entry!r} for {name!r}")
    table[name] = entry
    ADDED.add((called.rpartition(".")[2], name))


def registered(group: str, name: str) -> bool:
    """Whether a plug-in has added this name to the table of a group of conf/."""
    return (TABLES.get(group, ""), name) in ADDED


def _called(table: object) -> str:
    """The shortest name that one of our modules has for this table."""
    ours = [(name, vars(module)) for name, module in list(sys.modules.items()) if _of_us(name)]
    names = [f"{name}.{key}" for name, own in ours for key in own if own[key] is table]
    return min(names, key=len, default="this table")


def _of_us(module: str) -> bool:
    return module.partition(".")[0] in ROOMS


def _alike(entry: Any, other: Any) -> bool:
    """Whether two entries are of one kind: classes, functions, pairs that begin with a class."""
    if isinstance(other, str):  # "module:name" stands for what is imported when it is asked for
        return isinstance(entry, str) or hasattr(entry, "prepare")
    if type(other) is tuple:
        same = type(entry) is tuple and len(entry) == len(other)
        return same and isinstance(entry[0], type)
    if isinstance(other, type):
        return isinstance(entry, type)
    return callable(entry) if isinstance(other, FunctionType) else isinstance(entry, type(other))


def _kind(other: Any) -> str:
    """What `_alike` allows, in words."""
    if isinstance(other, str):
        return 'a Runner or "module:name"'
    if type(other) is tuple:
        return f"a tuple of {len(other)} that begins with a class"
    if isinstance(other, type):
        return "a class"
    return "a function" if isinstance(other, FunctionType) else f"a {type(other).__name__}"


def load_plugins(words: Sequence[str], conf: Path) -> None:
    """Import what the words of a command line or conf/ name, for what is composed after it."""
    Plugins.instance().register(Folders)
    load(_named(words, conf))


def load(names: Any) -> None:
    """Import what installed packages offer, and these.

    Raises:
        UserError: one of them is not there, or fails; with its file and line.
    """
    for entry in _installed():
        _load(entry.module, f"the entry point {entry.name} in {GROUP}")
    for name in _checked(names):
        _load(name, SETTING)


@cache
def _installed() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _load(name: str, setting: str) -> None:
    """Import it, once."""
    if name not in LOADED:
        try:
            LOADED[name] = import_module(name)
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{setting}: {name} cannot be imported: {reason}{_where(error)}"
            ) from error
        from envs.worker import PLUGINS  # not at the top: without plug-ins, no simulator is needed

        PLUGINS.append(name)
        log.debug("plugin %s", name)


def _where(error: BaseException) -> str:
    """The last line outside the import system and this file, if there is one."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _checked(value: Any) -> list[str]:
    """The names of modules that a configuration holds."""
    names = list(value) if OmegaConf.is_list(value) or isinstance(value, list) else None
    if names is None or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{SETTING} must be a list of modules, as in [my_lab.plugin], got {value}")
    for name in names:
        parts = name.split(".")
        if not all(part.isidentifier() for part in parts) or parts[-1] == "py":
            raise UserError(
                f"{SETTING} must have module names, got {name!r}: "
                "a module name such as my_lab.every, not a file"
            )
    return names


def _named(words: Sequence[str], conf: Path) -> list[str]:
    names: list[str] = []
    for file in (conf / name for name in FILES):
        said: Any = OmegaConf.load(file) if file.is_file() else {}
        if SETTING in said:
            names = _checked(said[SETTING])
    for word in words:
        if key_of(word) == SETTING:
            try:
                parsed = OverridesParser.create().parse_override(word)
            except HydraException as error:
                raise UserError(f"{SETTING}: {' '.join(str(error).split())}") from error
            if parsed.is_sweep_override():
                raise UserError(f"{SETTING} cannot be swept, got {word}")
            names = _checked(parsed.value())
    return names


class Folders(SearchPathPlugin):
    """Hydra looks into conf/ beside each plug-in after ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name, module in LOADED.items():
            folder = Path(str(module.__file__)).resolve().parent / "conf"
            if folder.is_dir():
                search_path.append(provider=name, path=f"file://{folder}")
