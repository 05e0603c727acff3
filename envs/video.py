"""Write frames to a small mp4 that every player and browser opens."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from ctypes.util import find_library
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def load_av() -> Any:
    """Import PyAV, which is optional."""
    try:
        import av
    except ImportError as error:
        raise ImportError('videos need PyAV: pip install "skipstep[sim]"') from error
    return av


def write_video(path: Path | str, frames: Sequence[NDArray[np.uint8]], fps: float) -> None:
    """Write (H, W, 3) frames with even H and W as h264; `path` exists only when it is whole."""
    av = load_av()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    height, width, _ = frames[0].shape
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": "22"}
            stream.codec_context.thread_count = 1
            for frame in frames:
                image = np.ascontiguousarray(frame)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


BACKENDS = {  # $MUJOCO_GL -> what brings it
    "egl": "apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri",
    "osmesa": "apt-get install -y libosmesa6",
    "glfw": "it needs a display, and apt-get install -y libglfw3; MUJOCO_GL=egl needs none",
    "glx": "it needs a display, and apt-get install -y libglfw3; MUJOCO_GL=egl needs none",
    "disabled": "MUJOCO_GL=egl renders",
}
OF_OPENGL = (
    *("/OpenGL/", "/glfw/", "gl_context", "mujoco_rendering", "renderers/context", "/egl/"),
    *("/osmesa/", "mujoco/renderer", "mujoco/rendering"),
)
TURNED_OFF = "SKIPSTEP_TURNED_OFF"  # in the environment: which of them cannot be loaded


def turn_off_what_cannot_be_loaded() -> None:
    """`import mujoco` fails where MUJOCO_GL=osmesa has no library, also where nothing is drawn."""
    if os.environ.get("MUJOCO_GL", "").lower() == "osmesa" and find_library("OSMesa") is None:
        os.environ |= {"MUJOCO_GL": "disabled", TURNED_OFF: "osmesa"}


def rendering_words(error: BaseException) -> str:
    """A failure in one line; where it comes of OpenGL, with the package that brings it."""
    said = f"{type(error).__name__}: {error}" if str(error).strip() else type(error).__name__
    said = " ".join(said.split())
    frames = traceback.extract_tb(error.__traceback__)
    backend = os.environ.get(TURNED_OFF) or os.environ.get("MUJOCO_GL", "").lower()
    names_it = any(word in said for word in ("MUJOCO_GL", "OpenGL", "gladLoadGL"))
    if not names_it and not any(part in f.filename for f in frames for part in OF_OPENGL):
        return said
    remedy = BACKENDS.get(backend, f"MUJOCO_GL must be egl, osmesa or glfw, got {backend!r}")
    return f"MUJOCO_GL={backend} renders nothing here: {remedy} ({said})"
