"""Images of a slot, in memory that its worker writes and the pool reads.

Images are too many bytes for the pipe between the two, which would copy them piece by piece. The
memory is a file in /dev/shm that never has a name: the kernel takes it back when the last process
that holds it ends, however it ends, so nothing can be left there. `multiprocessing.shared_memory`
has names, and a tracker that removes what a killed process leaves, with a warning.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from math import prod
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstep.observations import Arrays, ObservationSpec, stacked

PLACE = "/dev/shm"


class Frames:
    """Room for the images of some steps; pickled, while a process is started, it is the same room.

    The pool reserves the room before it asks, the worker puts images there while it steps, and the
    pool takes copies when it is answered.

    Args:
        spec: of the observations.
    """

    def __init__(self, spec: ObservationSpec) -> None:
        self.spec = spec
        self._file = tempfile.TemporaryFile(dir=PLACE, buffering=0)  # noqa: SIM115 (until close)
        self._memory: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "file": reduction.DupFd(self._file.fileno())}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.spec = state["spec"]
        self._file = os.fdopen(state["file"].detach(), "r+b", buffering=0)
        self._memory = None

    @property
    def step_bytes(self) -> int:
        return sum(prod(self.spec[name].shape) for name in self.spec.images)

    def reserve(self, n_steps: int) -> None:
        """Grow where the images of so many steps have no room.

        Raises:
            OSError: /dev/shm is full.
        """
        size = n_steps * self.step_bytes
        if size <= os.fstat(self._file.fileno()).st_size:
            return
        try:
            os.posix_fallocate(self._file.fileno(), 0, size)
        except OSError as error:
            raise OSError(
                f"{PLACE} has no room for the images of {n_steps} steps ({size / 1e6:.1f} MB): "
                f"{error.strerror}; fewer n_envs need less, and docker has --shm-size"
            ) from None

    def rooms(self, n_steps: int) -> dict[str, NDArray[np.uint8]]:
        """The images of the first steps, (n_steps, C, H, W) each, to be read and written."""
        size = n_steps * self.step_bytes
        steps = np.frombuffer(self._mapped(), np.uint8, size).reshape(n_steps, self.step_bytes)
        found, first = {}, 0
        for name in self.spec.images:
            shape = self.spec[name].shape
            found[name] = steps[:, first : first + prod(shape)].reshape(n_steps, *shape)
            first += prod(shape)
        return found

    def copies(self, obs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """What `Seen.whole` said, with copies of the images."""
        rooms = self.rooms(obs[self.spec.images[0]])
        return {name: rooms[name].copy() if name in rooms else obs[name] for name in self.spec}

    def close(self) -> None:
        """Give up this process's hold of it."""
        self._memory = None
        self._file.close()

    def _mapped(self) -> mmap.mmap:
        """All of the file, which grows under a worker's hands."""
        size = os.fstat(self._file.fileno()).st_size
        if self._memory is None or len(self._memory) < size:
            self._memory = mmap.mmap(self._file.fileno(), size)
        return self._memory


class Seen:
    """What a world shows while it answers one request.

    Args:
        spec: of the observations.
        n_steps: at most so many are added.
        frames: where images go; None: into arrays of their own.
    """

    def __init__(self, spec: ObservationSpec, n_steps: int, frames: Frames | None = None) -> None:
        self.spec, self.frames = spec, frames
        self.numbers: list[Arrays] = []
        shapes = {name: (n_steps, *spec[name].shape) for name in spec.images}
        self.images = (
            {name: np.empty(shape, np.uint8) for name, shape in shapes.items()}
            if frames is None
            else frames.rooms(n_steps)
        )

    def add(self, obs: Arrays) -> None:
        """An observation of one step; its arrays may be written to again afterwards."""
        if self.spec.single:
            self.numbers.append(obs)
            return
        for name, steps in self.images.items():
            steps[len(self.numbers)] = obs[name]
        numbers = (name for name in self.spec if name not in self.images)
        self.numbers.append({name: np.array(obs[name], np.float64) for name in numbers})

    def whole(self) -> Arrays:
        """All of them, an array (k, ...) or a mapping; images in frames are k in its place."""
        if self.spec.single:
            return np.asarray(self.numbers, np.float64)
        k, numbers = len(self.numbers), stacked(self.numbers)
        of = {name: k if self.frames else self.images[name][:k] for name in self.images} | numbers
        return {name: of[name] for name in self.spec}
