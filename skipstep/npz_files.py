"""Reading npz files that anybody may have written: sizes are compared before they are believed."""

from __future__ import annotations

import lzma
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .memory import check_memory
from .plain_files import PlainFileError

DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
    *(EOFError, NotImplementedError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(OverflowError, MemoryError, AttributeError, LookupError),
)
"""What zipfile and numpy raise of files that are damaged."""


class Npz(Mapping[str, NDArray[Any]]):
    """The arrays of an open npz file, each read when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in self._members:
                raise PlainFileError(f"it has {name[:80]!r} twice")
            self._members[name] = member

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __getitem__(self, name: str) -> NDArray[Any]:
        member = self._members[name]
        try:
            with self._archive.open(member) as stream:
                shape, by_column, dtype = _header(stream)
                n_bytes = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
                if dtype.hasobject:
                    raise PlainFileError("it holds objects, not numbers")
                if n_bytes != member.file_size - stream.tell():
                    raise PlainFileError(
                        f"its header says {shape} of {dtype}, {n_bytes} bytes, and "
                        f"{member.file_size - stream.tell()} are there"
                    )
                check_memory(n_bytes, name)
                content = stream.read()
            array: NDArray[Any] = np.frombuffer(bytearray(content), dtype)
            return array.reshape(shape, order="F" if by_column else "C")
        except (PlainFileError, *DAMAGED) as error:
            raise PlainFileError(f"{name[:80]}: {_line(error)}") from None


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd literals, which are refused anyhow
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise PlainFileError(f"its npy version {version} is not known")
        shape, by_column, dtype = read(stream)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise PlainFileError(f"its header says the shape {shape}")
    return shape, by_column, dtype


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """The arrays of a file; nothing in it is unpickled.

    Raises:
        PlainFileError: it is damaged, or asks for more than it holds; OSError: it cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", obs=np.zeros((2, 3)))
        ...     with open_npz(Path(folder, "a.npz")) as arrays:
        ...         print(list(arrays), arrays["obs"].shape)
        ['obs'] (2, 3)
    """
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            arrays = Npz(archive)
        except DAMAGED as error:
            if isinstance(error, PlainFileError):
                raise
            raise PlainFileError(f"it is no npz file ({_line(error)})") from None
        with archive:
            yield arrays


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
