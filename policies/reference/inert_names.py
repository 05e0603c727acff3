"""What the names that may occur in a checkpoint stand for, as plain data; all others are refused.

Nothing here imports or calls what the file names.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

from .inert_pickle import LOAD_TYPE, Call, Name, Persistent, RefusedError, shown
from .inert_values import Builder, Converter, convert, naturals, of_type


@dataclass(frozen=True)
class TensorRecord:
    """Where a tensor lies in the file: a strided view, inside the bounds of one storage."""

    key: str
    dtype: torch.dtype
    storage_numel: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def plain(record: Any) -> Any:
    """The plain data of a record; tensors become `TensorRecord`s."""
    return convert(record, ALLOWED)


def _mapping(converter: Converter, call: Call) -> dict[Any, Any]:
    pairs = [pair for arg in call.args if isinstance(arg, list) for pair in arg]
    return converter.mapping([*pairs, *call.entries])


def _sequence(converter: Converter, call: Call) -> list[Any]:
    return converter.items([item for arg in call.args for item in arg] + call.items)


def _bytes(converter: Converter, call: Call) -> bytes:
    return b"".join(of_type(bytes, converter.value(arg)) for arg in call.args)


def _encoded(_: Converter, call: Call) -> bytes:
    text, encoding = call.args
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError("bytes must be encoded as latin1")
    return of_type(str, text).encode("latin-1")


def _complex(_: Converter, call: Call) -> complex:
    real, imaginary = (of_type(float, part) for part in call.args)
    return complex(real, imaginary)


def _path(converter: Converter, call: Call) -> str:
    return str(PurePosixPath(*(of_type(str, converter.value(arg)) for arg in call.args)))


def _device(converter: Converter, call: Call) -> str:
    return ":".join(str(converter.value(arg)) for arg in call.args)


def _node_content(converter: Converter, call: Call) -> Any:
    return converter.value(call.state["_content"])


def _node_value(converter: Converter, call: Call) -> Any:
    return converter.value(call.state["_val"])


def _tensor(_: Converter, call: Call) -> TensorRecord:
    storage, offset, size, stride = call.args[:4]
    tag, kind, key, _location, numel = of_type(Persistent, storage).id
    dtype = STORAGE_DTYPES.get(of_type(Name, kind).text)
    if tag != "storage" or dtype is None:
        raise RefusedError(f"a tensor's storage of type {shown(kind.text)} is not known")
    size, stride = naturals(size), naturals(stride)
    offset, numel = naturals((offset, numel))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size:
        last = offset - 1
    if len(size) > 64 or last >= numel or math.prod(size) > numel:
        raise RefusedError(f"a tensor lies outside of its storage of {numel} values")
    return TensorRecord(of_type(str, key), dtype, numel, offset, size, stride)


def _parameter(converter: Converter, call: Call) -> TensorRecord:
    return of_type(TensorRecord, converter.value(call.args[0]))


def _dtype(_: Converter, call: Call) -> str:
    code = of_type(str, call.args[0])
    if not re.fullmatch(r"[biufcSU]\d{1,4}", code):
        raise RefusedError(f"a numpy array of type {shown(code)} is not allowed")
    order = call.state[1] if call.state else "|"
    if order not in ("<", ">", "|", "="):
        raise RefusedError("a numpy byte order must be one of < > | =")
    return f"{order}{code}"


def _numpy_scalar(converter: Converter, call: Call) -> Any:
    dtype, raw = call.args
    return np.frombuffer(converter.value(raw), of_type(str, converter.value(dtype)))[0].item()


def _array(converter: Converter, call: Call) -> np.ndarray[Any, Any]:
    # dill passes the state as an argument of its own function, pickle as the state.
    state = call.state if call.state is not None else call.args[2]
    _, shape, dtype, fortran, raw = state
    code = np.dtype(of_type(str, converter.value(dtype)))
    data = of_type(bytes, converter.value(raw))
    shape = naturals(shape)
    if math.prod(shape) * code.itemsize != len(data):
        raise RefusedError(f"a numpy array's shape does not fit its {len(data)} bytes")
    return np.ndarray(shape, code, data, order="F" if fortran else "C").copy()


STORAGE_DTYPES = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}

TENSOR_BUILDERS: dict[str, Builder] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
_BUILTINS: dict[str, Builder | None] = {
    "dict": _mapping,
    **dict.fromkeys(("list", "tuple", "set", "frozenset"), _sequence),
    **dict.fromkeys(("bytes", "bytearray"), _bytes),
    "complex": _complex,
    **dict.fromkeys(("str", "int", "float", "bool", "NoneType")),
}
_NODES = ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path", "Enum")

# None: the name may occur, in metadata or as a type, but is never called.
ALLOWED: dict[str, Builder | None] = {
    **{f"builtins.{name}": builder for name, builder in _BUILTINS.items()},
    **{f"{LOAD_TYPE}({name!r})": builder for name, builder in _BUILTINS.items()},
    LOAD_TYPE: None,
    "typing.Any": None,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "_codecs.encode": _encoded,
    **{
        f"{module}.{flavour}Path": _path
        for module in ("pathlib", "pathlib._local")
        for flavour in ("", "Pure", "Posix", "PurePosix")
    },
    "omegaconf.dictconfig.DictConfig": _node_content,
    "omegaconf.listconfig.ListConfig": _node_content,
    "omegaconf.base.UnionNode": _node_content,
    **{f"omegaconf.nodes.{kind}Node": _node_value for kind in _NODES},
    "omegaconf.base.Metadata": None,
    "omegaconf.base.ContainerMetadata": None,
    **TENSOR_BUILDERS,
    **dict.fromkeys(STORAGE_DTYPES),
    **{str(dtype): None for dtype in STORAGE_DTYPES.values()},
    "torch.device": _device,
    "torch.Size": _sequence,
    "numpy.dtype": _dtype,
    "numpy.ndarray": None,
    **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    "dill._dill._create_array": _array,
}
