"""What a user is told in one line."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user: one line, no traceback, exit code 2."""

    def __init__(self, error: object) -> None:
        super().__init__(" ".join(str(error).split()))
