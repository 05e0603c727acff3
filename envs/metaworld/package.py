"""The package metaworld, imported when an environment or an expert is made."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..task import Task


def load_metaworld(module: str) -> Any:
    """A module of metaworld.

    Args:
        module: its name after "metaworld.".

    Raises:
        ImportError: it is not there or cannot be imported, with what installs it.
    """
    try:
        return import_module(f"metaworld.{module}")
    except ImportError as error:
        raise ImportError(
            f"task=metaworld needs metaworld 3.0.0 ({error}): {Task.install}"
        ) from error
