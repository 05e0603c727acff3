"""Images of demonstrations: they stay in their files until somebody asks for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skipstep.observations import ArraySpec

from .episode import DatasetError

Pixels = NDArray[np.uint8]
CACHE_MB = 2000.0
"""What is kept of a dataset's images unless told otherwise."""


class Cache:
    """What was asked for last, as long as it fits.

    Args:
        max_mb: of everything together, in megabytes.
    """

    def __init__(self, max_mb: float = CACHE_MB) -> None:
        self.max_bytes = max_mb * 1e6
        self.n_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def find(self, key: Hashable) -> Any:
        """What is kept under a key; None: nothing."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def keep(self, key: Hashable, value: object, n_bytes: int) -> None:
        """Put something in; what was not asked for the longest goes out for it."""
        if n_bytes > self.max_bytes or key in self._kept:
            return
        self._kept[key] = value, n_bytes
        self.n_bytes += n_bytes
        while self.n_bytes > self.max_bytes:
            _, (_, gone) = self._kept.popitem(last=False)
            self.n_bytes -= gone


class Clip(Protocol):
    """The images of one camera in one episode."""

    def __len__(self) -> int: ...

    def read(self, steps: Sequence[int]) -> Mapping[int, Pixels]:
        """{step: (H, W, C)} of some steps, which rise, and of what was decoded on the way there.

        Raises:
            DatasetError: one line with the file, and what is wrong.
        """
        ...


class Pictures:
    """The images of one camera, all episodes one after the other: an array (n, C, H, W) of uint8.

    It is indexed as an array is, along the first axis, and decodes what it is asked for.

    Args:
        clips: of the episodes.
        names: file, episode and key of each, for messages.
        shape: (C, H, W) of each image; another one is refused when it is met.
        cache: keeps decoded images.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        clips: Sequence[Clip],
        names: Sequence[str],
        shape: tuple[int, ...],
        cache: Cache,
    ) -> None:
        self.clips, self.names, self.cache = list(clips), list(names), cache
        self.ends = np.cumsum([len(clip) for clip in clips], dtype=np.int64)
        self.shape = (int(self.ends[-1]), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def episode(self, number: int) -> Pictures:
        """Those of one episode, with the same cache."""
        one = slice(number, number + 1)
        return Pictures(self.clips[one], self.names[one], self.shape[1:], self.cache)

    def __getitem__(self, rows: Any) -> Pixels:
        """(..., C, H, W) of a row, of a slice, or of an array of numbers of any shape.

        Raises:
            DatasetError: an image cannot be decoded, or has another size.
        """
        chosen = np.arange(len(self))[rows]
        found, places = np.unique(chosen, return_inverse=True)
        images = np.empty((len(found), *self.shape[1:]), np.uint8)
        episodes = np.searchsorted(self.ends, found, side="right")
        for episode in np.unique(episodes):
            mine = episodes == episode
            first = self.ends[episode] - len(self.clips[episode])
            images[mine] = self._read(int(episode), (found[mine] - first).tolist())
        out: Pixels = images[places].reshape(*np.shape(chosen), *self.shape[1:])
        return out

    def _read(self, episode: int, steps: list[int]) -> list[Pixels]:
        """(C, H, W) of each step."""
        clip = self.clips[episode]
        found = {step: self.cache.find((clip, step)) for step in steps}
        missing = [step for step, image in found.items() if image is None]
        for step, image in (clip.read(missing) if missing else {}).items():
            self._check(image, episode, step)
            self.cache.keep((clip, step), image, image.nbytes)
            found[step] = image
        return [found[step].transpose(2, 0, 1) for step in steps]

    def _check(self, image: Pixels, episode: int, step: int) -> None:
        height, width, channels = image.shape
        if (channels, height, width) != self.shape[1:]:
            raise DatasetError(
                f"{self.names[episode]} must be of {ArraySpec(self.shape[1:])}, "
                f"got {ArraySpec((channels, height, width))} at step {step}"
            )
