"""Reading JSON and YAML that anybody may have written: bounded, plain, and finite.

A settings file is small and says what it means: no aliases, which let a page of text stand for
gigabytes; no tags, which ask for objects; no key twice; no NaN and no infinity; not nested deeper
than a person can read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer

JSON_BYTES, YAML_BYTES, DEPTH = 2**26, 2**18, 64


class PlainFileError(ValueError):
    """The content is not such data; one line, which does not name the file."""


def read_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        PlainFileError: it is no JSON, or more than plain data; OSError: it cannot be read.
    """
    return parse_json(_bytes(path, limit))


def read_yaml(path: Path, limit: int = YAML_BYTES) -> Any:
    """The value in a YAML file; an empty one holds None.

    Raises:
        PlainFileError: it is no YAML, or more than plain data; OSError: it cannot be read.
    """
    return parse_yaml(_bytes(path, limit))


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text.

    Example:
        >>> parse_json('{"steps": 1e999}')
        Traceback (most recent call last):
        skipstep.plain_files.PlainFileError: 1e999 is no finite number
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        value = json.loads(
            text, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_object
        )
    except RecursionError:
        raise PlainFileError(f"it is nested deeper than {DEPTH}") from None
    except PlainFileError:
        raise
    except ValueError as error:  # of UTF-8, of JSON, or an integer of thousands of digits
        raise PlainFileError(f"it is not JSON ({_line(error)})") from None
    if text.count("[") + text.count("{") > DEPTH:
        _check_depth(value)
    return value


def parse_yaml(content: bytes | str) -> Any:
    """The value of a YAML text; numbers are read as OmegaConf reads them (1e-3 is one).

    Example:
        >>> parse_yaml("steps: 10")
        {'steps': 10}
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        value = yaml.load(text, _Loader)
    except PlainFileError:
        raise
    except (yaml.YAMLError, ValueError, AttributeError, LookupError, TypeError) as error:
        # besides YAMLError: what PyYAML itself raises of odd scalars, such as `!!float x`
        raise PlainFileError(f"it is not YAML ({_line(error)})") from None
    except (RecursionError, OverflowError):
        raise PlainFileError(f"it is nested deeper than {DEPTH}") from None
    for found in _leaves(value):
        if isinstance(found, float) and not math.isfinite(found):
            raise PlainFileError(f"{found} is no finite number")
        if not isinstance(found, str | int | float | None):
            raise PlainFileError(f"it has a {type(found).__name__}, which is not allowed")
    return value


def _bytes(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise PlainFileError(f"it is larger than {limit} bytes")
    return content


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _constant(name: str) -> NoReturn:
    raise PlainFileError(f"{name} is no finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise PlainFileError(f"{text[:40]} is no finite number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise PlainFileError(f"it has the key {twice[:80]!r} twice")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH + 1):  # a level at a time: a result holds ten thousands of numbers
        level = [
            item
            for found in level
            if isinstance(found, dict | list)
            for item in (found.values() if isinstance(found, dict) else found)
        ]
        if not level:
            return
    raise PlainFileError(f"it is nested deeper than {DEPTH}")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


# libyaml reads ten times as fast; PyYAML has it wherever it has a wheel
_Scanned: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(Composer, _Scanned):  # type: ignore[misc]
    """Plain data only; composed here, from the events of either parser."""

    depth = 0

    def __init__(self, stream: str) -> None:
        _Scanned.__init__(self, stream)
        Composer.__init__(self)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise PlainFileError("it has an alias (*name), which is not allowed")
        if self.depth >= DEPTH:
            raise PlainFileError(f"it is nested deeper than {DEPTH}")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise PlainFileError("a key must be a word or a number")
            if key in found:
                raise PlainFileError(f"it has the key {str(key)[:80]!r} twice")
            found[key] = self.construct_object(value_node, deep=deep)
        return found


def _plain_scalars() -> None:
    """Dates stay words, and 1e-3 is a number, as in OmegaConf."""
    number = re.compile(
        r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.X,
    )
    _Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    left_out = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge")
    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in left_out]
        for first, known in _Loader.yaml_implicit_resolvers.items()
    }


_plain_scalars()
