"""What a user is told in one line, and which failures are the disk's."""

from __future__ import annotations

import errno

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_SAID = ("No space left on device", "Disk quota exceeded", "Read-only file system")


class UserError(Exception):
    """A mistake of the user: one line, no traceback, exit code 2."""

    def __init__(self, error: object) -> None:
        super().__init__(" ".join(str(error).split()))


def disk_words(error: BaseException | None) -> str | None:
    """What a failure says where it comes of a disk that takes no more; None where it does not.

    Libraries that write files in other languages than Python say it in their own exceptions.

    Example:
        >>> disk_words(OSError(errno.ENOSPC, "No space left on device", "a/b"))
        'No space left on device: a/b'
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            where = f": {error.filename}" if error.filename else ""
            return f"{error.strerror}{where}"
        if any(words in str(error) for words in _SAID):
            return " ".join(str(error).split())
        error = error.__cause__ or error.__context__
    return None
