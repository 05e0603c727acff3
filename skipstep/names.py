"""Other names of our modules: `skipstep.accel` for `accel`, and the names before they moved.

A module is loaded once, under its short name; each other name is an entry of `sys.modules` that
holds the same object, so that a table which a plug-in adds to is the table that a run reads.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .moved import MOVED, SILENT

PACKAGES = ("accel", "envs", "policies", "runners")
PREFIX = __package__ + "."
HERE = Path(__file__).resolve().parent
ROOT = HERE if (HERE / "accel").is_dir() else HERE.parent  # installed, or a checkout
"""The folder of the four packages."""


class Alias(Loader):
    """Loads nothing: gives another name to the module `real`."""

    def __init__(self, real: str, said: str = "") -> None:
        self.real, self.said = real, said
        self.spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if self.said:
            warnings.warn(self.said, DeprecationWarning, stacklevel=2)
        module = import_module(self.real)
        self.spec = module.__spec__
        _check_ours(module)
        _name_all(self.real)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has put the other name's there

    def get_code(self, name: str) -> CodeType | None:
        """For `python -m skipstep.runners.report`."""
        spec = find_spec(self.real)
        loader: Any = spec.loader if spec else None
        code: CodeType | None = loader.get_code(self.real) if loader else None
        return code


class Finder(MetaPathFinder):
    """Knows the other names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        real = name.removeprefix(PREFIX)
        if real.partition(".")[0] not in PACKAGES:
            return None
        new, said = MOVED.get(real), ""
        if new is None and real == name:
            return None  # the name under which it is loaded
        if new and real not in SILENT:
            said = f"{name} is now {name.removesuffix(real)}{new}; the old name goes with 0.2"
        spec = find_spec(new or real)
        if spec is None:
            return None
        places = spec.submodule_search_locations
        found = ModuleSpec(
            name, Alias(new or real, said), origin=spec.origin, is_package=places is not None
        )
        found.submodule_search_locations = places
        return found


def install() -> None:
    """Make all names known, also to the processes that this one starts: they get its path."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))


def _check_ours(module: ModuleType) -> None:
    place = Path(str(module.__file__)).resolve()
    if not place.is_relative_to(ROOT):
        top = module.__name__.partition(".")[0]
        raise ImportError(f"{PREFIX}{top} is in {ROOT}, but another {top} comes first: {place}")


def _name_all(real: str) -> None:
    """Name what came with a package too.

    `accel.attach` is a room, and in its place in `accel` is the function of that name, which an
    import of the room by another name would replace.
    """
    top = real.partition(".")[0]
    setattr(sys.modules[__package__], top, sys.modules[top])
    for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
        if name not in MOVED:
            sys.modules.setdefault(PREFIX + name, sys.modules[name])
