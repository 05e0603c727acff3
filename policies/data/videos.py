"""Frames of videos, found by their time, as LeRobot keeps those of cameras."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .episode import DatasetError
from .pictures import Pixels

TOLERANCE_S = 1e-4  # as LeRobot's


class Video:
    """A video file. Its packets are listed once; frames are decoded from the key frame before them.

    Args:
        path: of the file.

    Raises:
        DatasetError: it is not there, or no video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DatasetError(f"{path}: there is no such video")
        with self._opened() as (container, stream):
            packets = [p for p in container.demux(stream) if p.pts is not None]
            self._pts = np.array(sorted(p.pts for p in packets), np.int64)
            keys = sorted(p.pts for p in packets if p.is_keyframe)
            self._keys = np.searchsorted(self._pts, keys)
            self.times = self._pts * float(stream.time_base)
            self.shape = (3, stream.codec_context.height, stream.codec_context.width)
        if not len(self._keys):
            raise DatasetError(f"{path}: there are no frames in it")

    def find(self, times: NDArray[np.float64], name: str) -> NDArray[np.int64]:
        """Numbers of the frames at some times.

        Args:
            times: (n,) in seconds.
            name: of the episode, for messages.

        Raises:
            DatasetError: there is no frame at one of them.
        """
        after = np.clip(np.searchsorted(self.times, times), 1, max(len(self.times) - 1, 1))
        before = after - 1
        after = np.minimum(after, len(self.times) - 1)
        nearer = np.abs(self.times[before] - times) <= np.abs(self.times[after] - times)
        found: NDArray[np.int64] = np.where(nearer, before, after)
        off = np.abs(self.times[found] - times)
        if (off > TOLERANCE_S).any():
            step = int(np.flatnonzero(off > TOLERANCE_S)[0])
            raise DatasetError(
                f"{self.path}: a frame must be at {times[step]:.4f} s (step {step} of {name}), "
                f"the nearest is at {self.times[found[step]]:.4f} s"
            )
        return found

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        """(number, (H, W, 3)) of some frames, which rise, and of those decoded on the way there.

        Raises:
            DatasetError: one of them cannot be decoded.
        """
        keys = np.searchsorted(self._keys, numbers, side="right") - 1
        with self._opened() as (container, stream):
            for key in np.unique(keys[keys >= 0]):
                container.seek(int(self._pts[self._keys[key]]), stream=stream)
                wanted = [number for number, own in zip(numbers, keys, strict=True) if own == key]
                yield from self._decoded(container.decode(stream), int(self._keys[key]), wanted)
        if (keys < 0).any():
            raise self._broken(numbers[0], "no key frame is before it")

    def _decoded(
        self, decoding: Iterator[Any], first: int, wanted: Sequence[int]
    ) -> Iterator[tuple[int, Pixels]]:
        """Frames from a key frame on, until all that are wanted have come."""
        waiting = set(wanted)
        for frame in decoding:
            number = self._number(frame.pts)
            if number is not None and first <= number and not frame.is_corrupt:
                waiting.discard(number)
                yield number, frame.to_ndarray(format="rgb24")
            if not waiting or (number is not None and number > wanted[-1]):
                break
        if waiting:
            raise self._broken(min(waiting), "it does not come out of the decoder")

    def _number(self, pts: int | None) -> int | None:
        place = None if pts is None else int(np.searchsorted(self._pts, pts))
        known = place is not None and place < len(self._pts) and self._pts[place] == pts
        return place if known else None

    def _broken(self, number: int, why: str) -> DatasetError:
        return DatasetError(
            f"{self.path}: the frame at {self.times[number]:.4f} s cannot be decoded ({why})"
        )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """The container and its stream of pictures.

        Raises:
            DatasetError: what is read while it is open cannot be decoded.
        """
        av = _load_av()
        try:
            with av.open(str(self.path.absolute()), format="mp4") as container:  # no playlists
                if not container.streams.video:
                    raise DatasetError(f"{self.path}: there is no video in it")
                stream = container.streams.video[0]
                stream.codec_context.options = {"err_detect": "explode"}  # not painted over
                yield container, stream
        except av.error.FFmpegError as error:
            words = " ".join(str(error.strerror or error).split())
            raise DatasetError(f"{self.path}: the video cannot be decoded ({words})") from error


@dataclass(frozen=True, eq=False)
class VideoClip:
    """The frames of an episode.

    Attributes:
        video: that holds them.
        numbers: (n,) of the frames in it.
    """

    video: Video
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, steps: Sequence[int]) -> Mapping[int, Pixels]:
        step_of = {int(number): step for step, number in enumerate(self.numbers)}
        wanted = sorted({int(self.numbers[step]) for step in steps})
        frames = dict(self.video.frames(wanted))
        found = {step_of[number]: image for number, image in frames.items() if number in step_of}
        return found | {step: frames[int(self.numbers[step])] for step in steps}


def _load_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError('videos need PyAV: pip install "skipstep[data]"') from error
    return av
