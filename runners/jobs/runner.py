"""One kind of run, as its room shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig


class Runner(NamedTuple):
    """One kind of run; `config` is what conf/runner/<name>.yaml holds, with complete defaults."""

    config: type
    prepare: Callable[[DictConfig, Any], Any]
    run: Callable[[Any, Path], dict[str, Any]]
    render: Callable[[Mapping[str, Any], Path], str]
