"""skipstep show: the table of a study's runs, as a sweep ends with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..arguments import Parser, guarded
from ..errors import UserError
from ..launch.summary import summary
from ..store.reading import is_run


def run(words: Sequence[str]) -> int:
    """0: shown; 1: some of its runs did not finish; 2: a mistake of the user."""
    parser = Parser("skipstep show", description=__doc__)
    parser.add_argument("study", type=Path, help="its folder, multirun/<study>")
    return guarded(parser, words, _show)


def _show(said: argparse.Namespace) -> int:
    folders = sorted(path for path in said.study.glob("*") if is_run(path))
    if not folders:
        raise UserError(f"the study must be a folder with runs, there is none in {said.study}")
    text, whole = summary(folders)
    print(text)
    return int(not whole)
