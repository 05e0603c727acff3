"""Arguments of a subcommand, whose mistakes are one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .errors import UserError


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def guarded(parser: Parser, words: Sequence[str], does: Callable[[argparse.Namespace], int]) -> int:
    """What `does` returns; 2, and one line, where the user made a mistake."""
    try:
        return does(parser.parse_intermixed_args(list(words)))
    except (UserError, OSError, ValueError) as error:
        print(f"error: {UserError(error)}", file=sys.stderr)
        return 2
