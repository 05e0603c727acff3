"""Which jobs a study's commands asked for: those that never began have no folder that says so."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from skipstep.plain_files import read_json
from skipstep.whole_files import write_whole

FILE = "asked.json"  # of a study's folder: {command: [names of runs]}


def note_asked(folders: Iterable[Path], command: str) -> None:
    """Keep in each study's folder which of its runs a sweep is about to make."""
    studies: dict[Path, list[str]] = {}
    for folder in folders:
        studies.setdefault(folder.parent, []).append(folder.name)
    for study, names in studies.items():
        study.mkdir(parents=True, exist_ok=True)
        asked = {**_read(study / FILE), command: sorted(set(names))}
        write_whole(study / FILE, json.dumps(asked, indent=1) + "\n")


def asked_for(study: Path) -> dict[str, str]:
    """{name of a run: the command that asked for it}; empty where nothing is noted."""
    return {name: command for command, names in _read(study / FILE).items() for name in names}


def _read(path: Path) -> dict[str, list[str]]:
    """What is noted; a damaged file counts as absent: the next sweep writes it anew."""
    try:
        found = read_json(path)
        return {str(command): [str(name) for name in names] for command, names in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
