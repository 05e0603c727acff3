"""Resolving `${...}` in a config of plain dicts, lists and scalars, without running any resolver.

Understood are `${a.b[0]}`, relative `${.a}` and `${..a}`, nested `${a.${b}}` and `${eval:'...'}`,
which is arithmetic only. All else (`${now:...}`, `${oc.env:...}`, a missing key, a circle) stays
text.
"""

from __future__ import annotations

import re
from typing import Any

from .expressions import ExpressionError, evaluate

MAX_ACTIVE = 40
MAX_VALUES = 100_000
MAX_TEXT = 10_000

Route = tuple[Any, ...]

_BRACE = re.compile(r"[{}]")


class _UnresolvedError(Exception):
    """A text refers to something that is not in the config."""


def resolve(config: dict[Any, Any]) -> dict[Any, Any]:
    """A copy of `config` with the value of every interpolation that can be resolved.

    Raises:
        ValueError: if the resolved config would be absurdly large or deep.
    """
    try:
        resolved: dict[Any, Any] = _Resolver(config).tolerant(config, ())
    except RecursionError:
        raise ValueError("the config's interpolations are nested too deeply") from None
    return resolved


class _Resolver:
    def __init__(self, root: dict[Any, Any]) -> None:
        self._root = root
        self._active: set[Route] = set()
        self._nesting = 0
        self._left = MAX_VALUES

    def tolerant(self, node: Any, path: Route) -> Any:
        try:
            return self.strict(node, path)
        except _UnresolvedError:
            return node

    def strict(self, node: Any, path: Route) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"the resolved config has more than {MAX_VALUES} values")
        if isinstance(node, dict):
            return {key: self.tolerant(value, (*path, key)) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [self.tolerant(value, (*path, index)) for index, value in enumerate(node)]
        if not isinstance(node, str) or "${" not in node:
            return node
        if path in self._active or len(self._active) == MAX_ACTIVE:
            raise _UnresolvedError
        self._active.add(path)
        try:
            return self._render(node, path)
        finally:
            self._active.remove(path)

    def _render(self, text: str, path: Route) -> Any:
        if len(text) > MAX_TEXT or self._nesting == MAX_ACTIVE:
            raise _UnresolvedError
        pieces: list[str] = []
        position = 0
        while (start := text.find("${", position)) >= 0:
            if text[position:start].endswith("\\"):
                pieces += [text[position : start - 1], "${"]
                position = start + 2
                continue
            end = _closing_brace(text, start + 2)
            self._nesting += 1
            try:
                value = self._interpolate(text[start + 2 : end].strip(), path)
            finally:
                self._nesting -= 1
            if start == 0 and end == len(text) - 1:
                return value
            if isinstance(value, dict | list):
                raise _UnresolvedError
            pieces += [text[position:start], str(value)]
            position = end + 1
        rendered = "".join([*pieces, text[position:]])
        if len(rendered) > MAX_TEXT:
            raise _UnresolvedError
        return rendered

    def _interpolate(self, inner: str, path: Route) -> Any:
        resolver = re.match(r"([A-Za-z_][\w.]*)\s*:", inner)
        if resolver is None:
            return self._lookup(str(self._render(inner, path)), path)
        if resolver[1] != "eval":
            raise _UnresolvedError
        argument = _unquoted(inner[resolver.end() :].strip())
        try:
            return evaluate(str(self._render(argument, path)))
        except ExpressionError:
            raise _UnresolvedError from None

    def _lookup(self, reference: str, path: Route) -> Any:
        dots = len(reference) - len(reference.lstrip("."))
        if dots > len(path):
            raise _UnresolvedError
        here: Route = path[: len(path) - dots] if dots else ()
        node: Any = self._root
        for key in here:
            node = node[key]
        resolved = False
        for part in re.findall(r"[^.\[\]]+", reference):
            if isinstance(node, str) and not resolved:
                node, resolved = self.strict(node, here), True
            key = _key_in(node, part)
            node, here = node[key], (*here, key)
        value = node if resolved else self.strict(node, here)
        if isinstance(value, str) and (value == "???" or (resolved and "${" in value)):
            raise _UnresolvedError
        return value


def _key_in(node: Any, part: str) -> Any:
    number = int(part) if re.fullmatch(r"-?\d{1,9}", part) else None
    if isinstance(node, list | tuple) and number is not None and -len(node) <= number < len(node):
        return number % len(node)
    if isinstance(node, dict):
        for key in (part, number):
            if key is not None and key in node:
                return key
    raise _UnresolvedError


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise _UnresolvedError


def _unquoted(text: str) -> str:
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted and text[0] not in text[1:-1] else text
