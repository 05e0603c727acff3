"""The zip file that `torch.save` writes, read as bytes: one pickle, and the tensors' storages."""

from __future__ import annotations

import zipfile

import torch
from torch import Tensor

from .inert_names import TensorRecord
from .inert_pickle import RefusedError, shown

MAX_PICKLE_BYTES = 64 * 2**20


class Archive:
    """The records of a torch zip file; each storage is read once and shared by its tensors."""

    def __init__(self, file: zipfile.ZipFile, n_bytes: int) -> None:
        names = file.namelist()
        roots = [name.split("/")[0] for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1 or len(set(names)) != len(names):
            raise RefusedError("not a zip file of torch.save, with one data.pkl in one folder")
        if sum(info.file_size for info in file.infolist()) > n_bytes:
            raise RefusedError("its parts claim to be larger than the file")
        self._file = file
        self._root = roots[0]
        self._storages: dict[str, Tensor] = {}
        if f"{self._root}/byteorder" in names and self._read("byteorder") != b"little":
            raise RefusedError("byte order must be little, as on the machine that reads it")

    def _read(self, name: str) -> bytes:
        info = self._file.getinfo(f"{self._root}/{name}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise RefusedError(f"{shown(name)} is compressed, which torch.save never does")
        return self._file.read(info)

    def pickle(self) -> bytes:
        size = self._file.getinfo(f"{self._root}/data.pkl").file_size
        if size > MAX_PICKLE_BYTES:
            raise RefusedError(f"data.pkl must have at most {MAX_PICKLE_BYTES} bytes, got {size}")
        return self._read("data.pkl")

    def tensor(self, record: TensorRecord) -> Tensor:
        if record.key not in self._storages:
            data = bytearray(self._read(f"data/{record.key}"))
            bytes_ = torch.empty(0, dtype=torch.uint8)
            self._storages[record.key] = (
                torch.frombuffer(data, dtype=bytes_.dtype) if data else bytes_
            )
        raw = self._storages[record.key]
        n_bytes = record.storage_numel * record.dtype.itemsize
        if not 0 <= raw.numel() - n_bytes < record.dtype.itemsize:
            name, got = shown(record.key), raw.numel()
            raise RefusedError(f"storage {name} must have {n_bytes} bytes, got {got}")
        flat = raw[:n_bytes].view(record.dtype)
        return flat.as_strided(record.size, record.stride, record.offset)
