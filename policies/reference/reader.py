"""Reading a checkpoint of real-stanford/diffusion_policy without executing anything that is in it.

Such a file is a zip of `torch.save(..., pickle_module=dill)`: a pickle with the whole Hydra config,
the state dicts, and small values that are pickled once more, next to the raw bytes of the tensors.
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .archive import Archive
from .inert_names import ALLOWED, TENSOR_BUILDERS, TensorRecord, plain
from .inert_pickle import Call, Name, RefusedError, parse, shown
from .interpolation import resolve

DPPO = (
    "a checkpoint of DPPO, which is not supported: it holds weights alone, and the sizes of its "
    "networks and the limits of its normalisation are in files beside it"
)
OF_DPPO = (("ema", "model"), ("itr", "model"))  # parts of its checkpoints
ROBOMIMIC = ("algo_name", "config", "model", "shape_metadata")
SAID = (
    *("config", "algo_name", "shape_metadata", "env_metadata"),
    *("obs_normalization_stats", "action_normalization_stats"),
)


class CheckpointError(ValueError):
    """A file is not a checkpoint that can be read safely; one line that names the file."""


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """What a checkpoint of the reference implementation holds, as plain data.

    Attributes:
        path: the file.
        cfg: the Hydra config as dicts, lists and scalars. Interpolations are resolved; those that
            ask for anything but the config and arithmetic stay as they are written.
        state_dicts: the networks ("model", "ema_model"). Optimizer states are left in the file.
        pickles: the small values beside them ("epoch", "global_step", "_output_dir").
    """

    path: Path
    cfg: dict[str, Any]
    state_dicts: dict[str, dict[str, Tensor]]
    pickles: dict[str, Any]


def read_reference(path: str | Path) -> ReferenceCheckpoint:
    """Reads a checkpoint as data.

    Raises:
        CheckpointError: if the file is damaged, is something else, or would import or call anything
            outside of the short list that checkpoints need.
    """
    path = Path(path)
    with _opened(path) as archive:
        payload = _payload(archive.pickle())
        cfg, pickles = plain(payload["cfg"]), plain(payload.get("pickles", {}))
        for field, value in (("cfg", cfg), ("pickles", pickles)):
            if not isinstance(value, dict):
                raise RefusedError(f"{field} must be a mapping, got {type(value).__name__}")
        networks = {name: _tensors(record) for name, record in _entries(payload["state_dicts"])}
        return ReferenceCheckpoint(
            path=path,
            cfg=resolve(cfg),
            state_dicts={
                name: {key: archive.tensor(record) for key, record in tensors.items()}
                for name, tensors in networks.items()
                if tensors and isinstance(name, str)
            },
            pickles={name: _unpickled(name, stream) for name, stream in pickles.items()},
        )


@dataclass(frozen=True)
class RobomimicCheckpoint:
    """What a checkpoint of robomimic holds, as plain data.

    Attributes:
        said: all but the weights: "config" (JSON), "algo_name", "shape_metadata", ...
        state_dicts: the networks, "nets" and "ema".
    """

    said: dict[str, Any]
    state_dicts: dict[str, dict[str, Tensor]]


def read_robomimic(path: str | Path) -> RobomimicCheckpoint | None:
    """Reads a checkpoint of robomimic as data; None: it is another one.

    Raises:
        CheckpointError: as of `read_reference`.
    """
    with _opened(Path(path)) as archive:
        stream = archive.pickle()
        if not _names(stream).issuperset(ROBOMIMIC):
            return None
        payload = dict(_entries(parse(stream, ALLOWED).root))
        return RobomimicCheckpoint(
            said={name: plain(payload[name]) for name in SAID if name in payload},
            state_dicts={
                str(name): {key: archive.tensor(found) for key, found in _tensors(record).items()}
                for name, record in _entries(payload["model"])
                if name in ("nets", "ema") and record is not None
            },
        )


def _payload(stream: bytes) -> dict[Any, Any]:
    """What a checkpoint of diffusion_policy holds; another library's is refused by its name."""
    try:
        payload = parse(stream, ALLOWED).root
    except RefusedError as error:
        raise RefusedError(_of_another_library(stream) or str(error)) from None
    if not isinstance(payload, dict) or not payload.keys() >= {"cfg", "state_dicts"}:
        nothing = "no cfg and state_dicts in it, so not a diffusion_policy checkpoint"
        raise RefusedError(_of_another_library(stream) or nothing)
    return payload


def _of_another_library(stream: bytes) -> str:
    """Why its checkpoint is not read, if it is one, by the names of its parts."""
    names = _names(stream)
    found = "state_dicts" not in names and any(names.issuperset(parts) for parts in OF_DPPO)
    return DPPO if found else ""


def _names(stream: bytes) -> set[str]:
    """Of the parts of a checkpoint; nothing of it is run, whatever it asks for."""
    try:
        return {name for name, _ in _entries(parse(stream).root) if isinstance(name, str)}
    except RefusedError:
        return set()


def describe_trusted(path: str | Path) -> list[str]:
    """The names a full unpickling would import, and mostly call, that are not on the allow-list.

    Raises:
        CheckpointError: if the file cannot be followed to its end.
    """
    with _opened(Path(path)) as archive:
        parsed = parse(archive.pickle())
        names = parsed.names
        for _, record in _entries(dict(_entries(parsed.root)).get("pickles")):
            stream = None
            with contextlib.suppress(RefusedError):
                stream = plain(record)
            if isinstance(stream, bytes):
                names += parse(stream).names
        return [shown(name) for name in dict.fromkeys(names) if name not in ALLOWED]


def _entries(record: Any) -> list[tuple[Any, Any]]:
    if isinstance(record, Call):
        return record.entries
    return list(record.items()) if isinstance(record, dict) else []


def _unpickled(name: str, stream: Any) -> Any:
    if not isinstance(stream, bytes):
        raise RefusedError(f"pickles.{shown(str(name))} must be bytes, got {type(stream).__name__}")
    return plain(parse(stream, ALLOWED).root)


def _tensors(state_dict: Any) -> dict[str, TensorRecord]:
    return {
        key: plain(record)
        for key, record in _entries(state_dict)
        if isinstance(key, str)
        and isinstance(record, Call)
        and isinstance(record.function, Name)
        and record.function.text in TENSOR_BUILDERS
    }


_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    MemoryError,
)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Archive]:
    """The archive at `path`; whatever is wrong with it becomes one line with the file's name."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            if head[:1] == b"\x80":
                raise RefusedError("in torch's format from before 1.6; save it with a newer torch")
            if head != b"PK\x03\x04":
                raise RefusedError("not a checkpoint of torch.save (not a zip file)")
            with zipfile.ZipFile(file) as archive:
                yield Archive(archive, path.stat().st_size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except RefusedError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except KeyError as error:
        raise CheckpointError(f"{path}: incomplete ({shown(str(error))})") from None
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: damaged or cut short ({shown(str(error))})") from None
