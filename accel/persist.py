"""What files of plans, calibrations, statistics and quantised models have in common.

Each names its schema and holds the digest of its content: a file of another version, one with a
key too many and one that was changed are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from skipstep.plain_files import parse_json
from skipstep.whole_files import write_whole

HEADER = "skipstep"  # its key in the metadata of a safetensors file


def check_schema(content: Any, schema: str) -> None:
    """Refuse what is no mapping of this schema."""
    if not isinstance(content, dict) or content.get("schema") != schema:
        raise ValueError(f"schema must be {schema}")


def check_keys(content: Mapping[str, Any], keys: Set[str], optional: Set[str]) -> None:
    """Refuse a key that is missing, and one that is unknown."""
    if content.keys() - optional != keys:
        wrong = sorted((content.keys() - optional) ^ keys)
        raise ValueError(f"keys differ from the schema's: {', '.join(wrong)}")


def check_digest(content: Mapping[str, Any], digest: str) -> None:
    """Refuse content that was changed."""
    if content["digest"] != digest:
        raise ValueError("digest does not match the content")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """One safetensors file with a JSON header; the same content gives the same bytes."""
    text = json.dumps(header, sort_keys=True)
    write_whole(path, save(dict(tensors), {HEADER: text}))


def read_header(
    path: Path, schema: str, keys: Set[str], optional: Set[str] = frozenset()
) -> dict[str, Any]:
    """The header of such a file.

    Raises:
        ValueError: another schema or other keys; OSError or SafetensorError: no such file.
    """
    with safe_open(path, framework="pt") as file:
        header: Any = parse_json((file.metadata() or {}).get(HEADER, "null"))
    check_schema(header, schema)
    if header.keys() - optional != keys:
        raise ValueError(f"header must have {', '.join(sorted(keys))}")
    found: dict[str, Any] = header
    return found
