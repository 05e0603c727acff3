"""What every benchmark does with its options and with what it found."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from runners.jobs.versions import versions
from runners.machine import cpu, load
from runners.store.folder import dump
from skipstep.whole_files import write_whole


def check(options: argparse.Namespace, **least: int) -> None:
    """Refuse options, or any of a list, below their least value."""
    for name, smallest in least.items():
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if value < smallest:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be at least {smallest}, got {value}")


def keep(folder: Path, name: str, found: Any, text: str = "") -> None:
    """Write `found` as JSON, and what is said of it as Markdown and on the terminal."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.json", dump(found))
    if text:
        write_whole(folder / f"{name}.md", text + "\n")
        print(text)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are padded, so that it reads as text too."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |"
        for line in (header, rule, *rows)
    )


def machine() -> dict[str, object]:
    """What numbers depend on besides the options."""
    found: dict[str, object] = dict(versions())
    for name in ("scipy", "diffusers", "cache-dit"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    capability = torch.backends.cpu.get_cpu_capability()
    here = {"cpu": cpu(), "load": load(), "cores": os.cpu_count(), "capability": capability}
    return {**found, **here}
