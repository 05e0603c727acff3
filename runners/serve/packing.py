"""Messages: msgpack with arrays of numpy, as openpi-client 0.1.2 packs them.

An array is a mapping of `__ndarray__`, `data`, `dtype` and `shape` (keys are bytes), a number of
numpy one of `__npgeneric__`, `data` and `dtype`. Nothing in a message is executed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import UserError

ARRAY, SCALAR = b"__ndarray__", b"__npgeneric__"
KINDS = "biufSU"  # booleans, numbers, texts; no objects, no records, no complex numbers


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError:
        raise UserError("serving needs msgpack: pip install 'skipstep[serve]'") from None
    return msgpack


def pack(value: Any) -> bytes:
    """A nested mapping of scalars, texts and arrays as a message.

    Raises:
        ValueError: an array of objects, records or complex numbers. TypeError: what is none of it.
    """
    packed: bytes = _msgpack().packb(value, default=_encode)
    return packed


def unpack(message: bytes) -> Any:
    """What `pack` took; arrays are copies and may be written to.

    Raises:
        ValueError: a message that is cut off or damaged, or an array that is not what it says.

    Example:
        >>> unpack(pack({"state": np.arange(3.0)}))["state"].tolist()
        [0.0, 1.0, 2.0]
    """
    msgpack = _msgpack()
    try:
        return msgpack.unpackb(message, object_hook=_decode, strict_map_key=False)
    except (msgpack.UnpackException, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"not a message: {error or type(error).__name__}") from None


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in KINDS:
            raise ValueError(f"arrays must hold numbers or texts, got {value.dtype}")
        kind = {b"dtype": value.dtype.str}
        if isinstance(value, np.generic):
            return {SCALAR: True, b"data": value.item(), **kind}
        return {ARRAY: True, b"data": value.tobytes(), **kind, b"shape": value.shape}
    raise TypeError(f"{type(value).__name__} cannot be sent: mappings, lists, numbers, arrays can")


def _decode(value: dict[Any, Any]) -> Any:
    if ARRAY not in value and SCALAR not in value:
        return value
    dtype = np.dtype(value[b"dtype"])
    if dtype.kind not in KINDS:
        raise ValueError(f"arrays must hold numbers or texts, got {dtype}")
    if SCALAR in value:
        return dtype.type(value[b"data"])
    shape, data = tuple(value[b"shape"]), value[b"data"]
    if any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"an array's shape must be whole numbers, got {shape}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {dtype} and shape {shape} got {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape).copy()
