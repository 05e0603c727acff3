"""Making checkpoint files, honest and hostile, and reading them under an audit."""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import torch

from policies.reference.reader import CheckpointError, read_reference
from tests.helpers.places import FIXTURES

DATA = FIXTURES
KITCHEN, LIFT = (
    DATA / f"{task}_lowdim_transformer" / "latest.ckpt" for task in ("kitchen", "lift")
)
NO_CFG: dict[str, Any] = {"cfg": {}, "state_dicts": {}, "pickles": {}}

_RUNS = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "exec"),
    *("pickle.find_class", "marshal.loads", "code.__new__", "function.__new__", "socket.connect"),
}
_seen: list[str] | None = None

for codec in ("raw-unicode-escape", "unicode-escape", "cp437", "latin-1"):
    "".encode(codec)  # imported on first use, which the audit below would notice


def _audit(event: str, _: tuple[Any, ...]) -> None:
    if _seen is not None and event in _RUNS:
        _seen.append(event)


sys.addaudithook(_audit)


def read(path: Path) -> Any:
    """Reads a file and fails if that executed or imported anything."""
    global _seen
    _seen = []
    try:
        return read_reference(path)
    finally:
        events, _seen = _seen, None
        assert events == []


def refusal(path: Path) -> str:
    """The one-line message with which a file is refused."""
    message = outcome(path)
    assert message, f"{path} was read"
    return message


def outcome(path: Path) -> str:
    """The message of a refusal, or nothing."""
    try:
        read(path)
    except CheckpointError as error:
        message = str(error)
    else:
        return ""
    assert str(path) in message
    assert "\n" not in message
    return message


def save(path: Path, payload: object) -> Path:
    """A file as the reference implementation writes it."""
    torch.save(payload, path, pickle_module=dill)
    return path


def pack(path: Path, stream: bytes, parts: dict[str, bytes] | None = None) -> Path:
    """A zip file like torch.save's around a pickle stream."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", stream)
        for name, data in {"byteorder": b"little", **(parts or {})}.items():
            file.writestr(f"archive/{name}", data)
    return path


def pickled(payload: object) -> bytes:
    """A stream of the protocol that torch.save uses."""
    return pickle.dumps(payload, protocol=2)


class Gadget:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call
