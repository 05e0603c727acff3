"""Mutations of files: of their bytes, of the values in them, and of what containers hold."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import yaml

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 10**18, 10**400, 0.5, -0.5, 1e300),
    *(float("nan"), float("inf"), "", "x", "../../etc/passwd", "/etc/passwd", "1", "*" * 300),
    *([], [0], [[0]], {}, {"a": 1}, [None], {"name": {}}),
)
DEEP = "[" * 100_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
WHOLE = (b"", b"\0" * 4096, b"\xff\xfe\x00garbage", DEEP.encode(), BOMB.encode(), b"[1]", b"word")

Bytes = Callable[[bytes, random.Random], bytes]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and index of nested mappings and lists; of long lists the first ones."""
    items = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value[:3]))
        if isinstance(value, list)
        else []
    )
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def changed(value: Any, rng: random.Random) -> Any:
    """A copy with one value replaced, removed, doubled, scaled or put under another key."""
    found = copy.deepcopy(value)
    chosen = list(places(found))
    if not chosen or rng.random() < 0.03:
        return rng.choice(VALUES)
    *path, key = rng.choice(chosen)
    inside = found
    for step in path:
        inside = inside[step]
    kind, there = rng.random(), inside[key]
    if kind < 0.15:
        del inside[key]
    elif kind < 0.25 and isinstance(inside, dict):
        inside[f"{key}_"] = inside.pop(key)
    elif kind < 0.35 and isinstance(inside, list):
        inside.append(there)
    elif kind < 0.55 and type(there) in (int, float):
        inside[key] = rng.choice((there + 1, -there, there * 2, there * 10**6, float(there)))
    else:
        inside[key] = rng.choice(VALUES)
    return found


def flipped(content: bytes, rng: random.Random) -> bytes:
    """A bit flipped, a piece cut out, doubled or zeroed, or the end torn off or zeroed."""
    if not content:
        return b"\0"
    at, n = rng.randrange(len(content)), rng.choice((1, 1, 8, 64))
    piece = content[at : at + n]
    return rng.choice(
        (
            content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :],
            content[:at] + content[at + n :],
            content[:at] + piece + piece + content[at + n :],
            content[:at] + bytes(len(piece)) + content[at + n :],
            content[:at],
            content[:at] + bytes(len(content) - at),
        )
    )


def replaced(content: bytes, rng: random.Random) -> bytes:
    """Something else altogether."""
    return rng.choice(WHOLE)


def changed_json(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(changed(json.loads(content), rng)).encode()


def changed_lines(content: bytes, rng: random.Random) -> bytes:
    """One line of JSON changed, doubled or moved."""
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    kind = rng.random()
    if kind < 0.7:
        lines[at] = changed_json(lines[at], rng)
    elif kind < 0.85:
        lines.insert(rng.randrange(len(lines)), lines[at])
    else:
        rng.shuffle(lines)
    return b"\n".join(lines) + b"\n"


def changed_yaml(content: bytes, rng: random.Random) -> bytes:
    value = changed(yaml.safe_load(content), rng)
    return yaml.safe_dump(value, sort_keys=False).encode()


def changed_zip(content: bytes, rng: random.Random) -> bytes:
    """Members swapped, left out, doubled, renamed, changed within, or blown up."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at, other = rng.randrange(len(members)), rng.randrange(len(members))
    name, data = members[at]
    kind = rng.randrange(7)
    if kind == 0:
        members[at], members[other] = (name, members[other][1]), (members[other][0], data)
    elif kind == 1:
        del members[at]
    elif kind == 2:
        members.append((name, members[other][1]))
    elif kind == 3:
        members[at] = (rng.choice(("../../x", "/tmp/x", name + "_", "", "a\\b")), data)
    elif kind == 4:
        members[at] = (name, data + bytes(rng.choice((1, 64, 2**24))))
    else:
        members[at] = (name, flipped(data, rng))
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def changed_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Its header changed, or the names of two tensors swapped."""
    (length,) = struct.unpack("<Q", content[:8])
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    if names and rng.random() < 0.3:
        first, second = rng.choice(names), rng.choice(names)
        header[first], header[second] = header[second], header[first]
    elif "__metadata__" in header and rng.random() < 0.4:
        key = rng.choice(list(header["__metadata__"]))
        inner = header["__metadata__"][key].encode()
        try:
            header["__metadata__"][key] = changed_json(inner, rng).decode()
        except ValueError:
            header["__metadata__"][key] = ""
    else:
        header = changed(header, rng)
    text = json.dumps(header).encode()
    said = rng.choice((len(text), len(text), len(text), len(text) + 1, 2**40))
    return struct.pack("<Q", said) + text + rest


GADGET = b"cos\nsystem\n(S'touch executed'\ntR0"  # of pickle: runs, where pickle is believed


def changed_checkpoint(content: bytes, rng: random.Random) -> bytes:
    """As a zip file; now and then with a call before what is pickled."""
    if rng.random() > 0.1:
        return changed_zip(content, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as target:
        for info in archive.infolist():
            data = archive.read(info)
            is_pickle = info.filename.endswith("data.pkl")
            target.writestr(info.filename, data[:2] + GADGET + data[2:] if is_pickle else data)
    return out.getvalue()


def changed_hdf5(content: bytes, rng: random.Random) -> bytes:
    """A dataset left out, renamed, of another shape or type; an attribute of another type."""
    import h5py
    import numpy as np

    file = io.BytesIO(content)
    with h5py.File(file, "r+") as root:
        names: list[str] = []
        root.visit(names.append)
        name = rng.choice(names)
        kind = rng.randrange(6)
        if kind == 0:
            del root[name]
        elif kind == 1:
            root.move(name, rng.choice((f"{name}_", "data/other", "x")))
        elif kind == 2:
            root[name].attrs[rng.choice(("num_samples", "total"))] = rng.choice((-1, 2**40, "x"))
        else:
            del root[name]
            made = rng.choice((np.zeros(3), np.zeros((4, 0)), np.array(["a"], "S"), np.float64(1)))
            if kind == 3:
                root.create_dataset(name, (10**9, 7), "f8", chunks=(1000, 7))
            else:
                root[name] = np.full((12, 7), rng.choice((np.nan, 1e300))) if kind == 4 else made
    return file.getvalue()


CANNOT_BE_WRITTEN = (ValueError, LookupError, TypeError, OSError, struct.error, RuntimeError)
STRUCTURED: dict[str, Bytes] = {
    ".json": changed_json,
    ".jsonl": changed_lines,
    ".yaml": changed_yaml,
    ".npz": changed_zip,
    ".ckpt": changed_checkpoint,
    ".hdf5": changed_hdf5,
    ".safetensors": changed_safetensors,
}


def mutated(content: bytes, suffix: str, rng: random.Random) -> bytes:
    """Mostly a mutation that knows what the file is; else one of its bytes, or something else."""
    kind = rng.random()
    structured = STRUCTURED.get(suffix)
    if structured and kind < 0.6:
        with contextlib.suppress(*CANNOT_BE_WRITTEN):
            return structured(content, rng)
    return replaced(content, rng) if kind > 0.95 else flipped(content, rng)
