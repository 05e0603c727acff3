"""The files of a LeRobot folder as data: JSON and safetensors, and nothing else is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MAX_JSON_BYTES = 16 * 2**20


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is not a number")


def json_in(folder: Path, name: str) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        ValueError: it is not there, or holds something else; one line that names the file.
    """
    file = folder / name
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"has more than {MAX_JSON_BYTES} bytes")
        found = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name}: must hold a mapping, got {type(found).__name__}")
    return found


def tensors_in(folder: Path, name: object) -> dict[str, Tensor]:
    """The tensors of a safetensors file that lies in the folder itself.

    Raises:
        ValueError: it lies elsewhere, is not there, or is damaged; one line that names the file.
    """
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise ValueError(f"{name!r} must be a .safetensors file of this folder")
    if not (folder / name).is_file():
        raise ValueError(f"{name} is missing{_others(folder)}")
    try:
        return load_file(folder / name)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{name}: cannot be read ({' '.join(str(error).split())})") from None


def _others(folder: Path) -> str:
    """Weights in other formats, which are not opened."""
    suffixes = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".index.json")
    found = sorted(p.name for p in folder.iterdir() if p.name.endswith(suffixes))
    return f" ({', '.join(found[:3])} is not opened)" if found else ""
