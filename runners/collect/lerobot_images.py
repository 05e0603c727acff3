"""Images in a folder of LeRobot's: a PNG in each row, and statistics of every pixel."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
LEVELS = 256


def column(images: Pixels) -> Any:
    """(T, C, H, W) as the cells that Hugging Face's datasets have for images."""
    import pyarrow as pa

    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": png(image), "path": f"frame-{i:06d}.png"} for i, image in enumerate(images)]
    return pa.array(cells, cell)


def png(image: Pixels) -> bytes:
    """(C, H, W) of one or three channels as a PNG; the same pixels give the same bytes."""
    from PIL import Image

    file = io.BytesIO()
    pixels = image.transpose(1, 2, 0)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def feature(images: Pixels) -> dict[str, Any]:
    """What info.json says of a camera."""
    _, channels, height, width = images.shape
    shape = [height, width, channels]
    return {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}


def counts(images: Pixels) -> NDArray[np.int64]:
    """(C, 256): how often each channel has each level; counts of episodes add up."""
    channels = images.transpose(1, 0, 2, 3).reshape(images.shape[1], -1)
    return np.stack([np.bincount(channel, minlength=LEVELS) for channel in channels])


def statistics(
    held: NDArray[np.int64], n_images: int, quantiles: Mapping[str, float]
) -> dict[str, list[Any]]:
    """Of pixels in [0, 1], (C, 1, 1) each as in LeRobot.

    Args:
        held: `counts` of the images.
        n_images: how many.
        quantiles: {name: share of the pixels that are at most that}.
    """
    levels = np.arange(LEVELS) / (LEVELS - 1)
    shares = held / held.sum(axis=1, keepdims=True)
    mean = shares @ levels
    found = {
        "min": _levels(held, 0.0),
        "max": _levels(held, 1.0),
        "mean": mean,
        "std": np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0)),
    }
    found |= {name: _levels(held, share) for name, share in quantiles.items()}
    return {
        **{name: value[:, None, None].tolist() for name, value in found.items()},
        "count": [n_images],
    }


def _levels(held: NDArray[np.int64], share: float) -> NDArray[np.float64]:
    """The lowest level of each channel that `share` of its pixels are at most."""
    totals: Sequence[int] = held.sum(axis=1)
    found = [
        np.searchsorted(np.cumsum(row), max(1, share * total))
        for row, total in zip(held, totals, strict=True)
    ]
    return np.array(found) / (LEVELS - 1)
