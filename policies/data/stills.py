"""PNG and JPEG images in columns of parquet files, as LeRobot writes them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.observations import ArraySpec

from .episode import DatasetError, readable
from .pictures import Cache, Pixels

FORMATS = ("PNG", "JPEG")  # Pillow runs another program for some
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # of modes with a byte a channel


class Stills:
    """A camera's column in the parquet files of a dataset; whole row groups are read at once.

    Args:
        files: of the dataset.
        key: of the camera.
        shape: (C, H, W) of its images.
        cache: keeps encoded images.
    """

    def __init__(
        self, files: Sequence[Path], key: str, shape: tuple[int, ...], cache: Cache
    ) -> None:
        from pyarrow import parquet

        self.files, self.key, self.shape, self.cache = list(files), key, shape, cache
        self._held = [parquet.read_metadata(file) for file in files]
        self._starts = []
        for held in self._held:
            sizes = [held.row_group(i).num_rows for i in range(held.num_row_groups)]
            self._starts.append([0, *accumulate(sizes)])

    def encoded(self, file: int, row: int) -> bytes | None:
        """The bytes of one image; None: it is not there.

        Args:
            file: number of it in `files`.
            row: in the file.
        """
        starts = self._starts[file]
        group = int(np.searchsorted(starts, row, side="right")) - 1
        found = self.cache.find((self, file, group))
        if found is None:
            found = self._group(file, group)
            self.cache.keep((self, file, group), found, found.nbytes)
        cell: bytes | None = found[row - starts[group]].as_py()
        return cell

    def _group(self, file: int, group: int) -> Any:
        """The column `bytes` of a row group."""
        from pyarrow import parquet

        path, metadata = self.files[file], self._held[file]
        with readable(path), parquet.ParquetFile(path, metadata=metadata) as held:
            column = held.read_row_group(group, columns=[self.key])[self.key]
            return column.combine_chunks().field("bytes")


@dataclass(frozen=True, eq=False)
class StillClip:
    """An episode's images.

    Attributes:
        stills: of its camera.
        files: (n,) numbers of the files that hold each step.
        rows: (n,) in these files.
    """

    stills: Stills
    files: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, steps: Sequence[int]) -> Mapping[int, Pixels]:
        found = {}
        for step in steps:
            file, row = int(self.files[step]), int(self.rows[step])
            where = f"{self.stills.files[file]}: {self.stills.key} in row {row}"
            found[step] = decoded(self.stills.encoded(file, row), self.stills.shape, where)
        return found


def decoded(content: bytes | None, shape: Sequence[int], where: str) -> Pixels:
    """(H, W, C) of a PNG or JPEG.

    Args:
        content: of the file.
        shape: (C, H, W) that it must have.
        where: it is from, for messages.

    Raises:
        DatasetError: it is none, or has another shape, or other pixels than bytes.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise DatasetError(f"{where} must hold the bytes of a PNG or JPEG, got none")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.mode not in CHANNELS:
                raise DatasetError(f"{where} must have 8 bits a channel, got {image.mode}")
            got = CHANNELS[image.mode], image.height, image.width
            if got != tuple(shape):  # before it takes the memory that it says it needs
                raise DatasetError(
                    f"{where} must be of {ArraySpec(tuple(shape))}, got {ArraySpec(got)}"
                )
            array: Pixels = np.asarray(image)
    except UnidentifiedImageError as error:
        raise DatasetError(f"{where} must be a PNG or JPEG, it is neither") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DatasetError):
            raise
        words = " ".join(str(error).split())
        raise DatasetError(f"{where} cannot be decoded ({words})") from error
    return array if array.ndim == 3 else array[:, :, None]
