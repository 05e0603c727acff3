"""What a kind of file is to the campaigns: a whole one, its reader, and what must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of file or folder.

    Attributes:
        make: writes a whole one into a folder; returns what is to be read.
        load: reads it, and returns what `check` looks at.
        refusals: what it is refused by.
        check: (what was loaded now, what was loaded of the whole one, the path) -> what is wrong.
    """

    make: Callable[[Path], Path]
    load: Callable[[Path], Any]
    refusals: tuple[type[Exception], ...]
    check: Callable[[Any, Any, Path], str]
