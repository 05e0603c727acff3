"""Write frames to a small mp4 that every player and browser opens."""

from __future__ import annotations

from collections.abc import Sequence
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
