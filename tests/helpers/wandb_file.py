"""Read a W&B offline file back: LevelDB's log framing around protobuf records."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7
ZERO, FULL, FIRST, LAST = 0, 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = HEADER, b""
    while at + HEADER <= len(data):
        room = BLOCK - at % BLOCK
        if room < HEADER:  # a block's tail is too short for a header
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == ZERO:
            return
        chunk = data[at + HEADER : at + HEADER + length]
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        at += HEADER + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record


def _values(items: Any) -> dict[str, Any]:
    return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


def read(path: Path, wait_s: float = 5.0) -> dict[str, Any]:
    """What is in it, once its run's end is: W&B's service may write it a moment later."""
    last = time.monotonic() + wait_s
    while (found := _read(path))["exit"] is None and time.monotonic() < last:
        time.sleep(0.1)
    return found


def _read(path: Path) -> dict[str, Any]:
    """{"config", "summary", "history": rows, "run": the run record, "exit": code}."""
    found: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "run": None, "exit": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            found["config"] |= _values(record.run.config.update)
        elif kind == "config":
            found["config"] |= _values(record.config.update)
        elif kind == "summary":
            found["summary"] |= _values(record.summary.update)
        elif kind == "history":
            found["history"].append(_values(record.history.item))
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found
