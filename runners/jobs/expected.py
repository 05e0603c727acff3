"""What a setting may be, in plain words: "n_episodes must be a whole number, got 'abc'"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}
MANY = {int: "whole numbers", float: "numbers", str: "texts"}


def number_for_boolean(cls: Any, values: Mapping[Any, Any], where: str) -> str | None:
    """The mistake of a number where true or false belongs, which OmegaConf takes as true."""
    hints = get_type_hints(cls)
    for name, value in values.items():
        hint = hints.get(name)
        if bool in _options(hint) and type(value) in (int, float):
            return _must_be(_path(where, name), hint, value)
        if is_dataclass(hint) and OmegaConf.is_dict(value):
            found = number_for_boolean(hint, value, _path(where, name))
            if found:
                return found
    return None


def mistake(cls: Any, values: Mapping[Any, Any], where: str, error: OmegaConfBaseException) -> str:
    """What is wrong with the values that OmegaConf refused for a dataclass."""
    for name, value in values.items():
        try:
            OmegaConf.merge(OmegaConf.structured(cls), {name: value})
        except OmegaConfBaseException as own:
            inner = str(own.full_key or name).partition("[")[0]  # of a list: all of it
            return _of_key(cls, values, inner.split("."), where, own)
    return f"{where}: {_reason(error)}"


def _of_key(
    cls: Any,
    values: Mapping[Any, Any],
    keys: list[str],
    where: str,
    error: OmegaConfBaseException,
) -> str:
    hint, value = get_type_hints(cls).get(keys[0]), values.get(keys[0])
    name = _path(where, keys[0])
    if hint is None:
        allowed = ", ".join(_spelled(key) for key in get_type_hints(cls))
        return f"{name}: unknown key, allowed: {allowed}"
    if len(keys) > 1 and is_dataclass(hint) and isinstance(value, Mapping):
        return _of_key(hint, value, keys[1:], name, error)
    if len(keys) > 1 or hint is Any:
        return f"{'.'.join([name, *keys[1:]])}: {_reason(error)}"
    return _must_be(name, hint, value)


def _must_be(name: str, hint: Any, value: Any) -> str:
    options = [_words(option) for option in _options(hint)]
    if options[0] == WORDS[bool] and len(options) > 1:
        options = ["true", "false", *options[1:]]
    expected = " or ".join(filter(None, [", ".join(options[:-1]), options[-1]]))
    return f"{name} must be {expected}, got {_shown(value)}{_as_a_list(name, hint, value)}"


def _as_a_list(name: str, hint: Any, value: Any) -> str:
    """How one value is written where a list belongs."""
    kinds = [get_args(o)[0] for o in _options(hint) if get_origin(o) is list and get_args(o)]
    one = any(isinstance(kind, type) and type(value) is kind for kind in kinds)
    return f"; write {name}=[{value}]" if one else ""


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of `int | None`."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _words(hint: Any) -> str:
    if is_dataclass(hint):
        return f"a mapping of {', '.join(map(_spelled, get_type_hints(hint)))}"
    origin = get_origin(hint) or hint
    if origin is list:
        return f"a list of {MANY.get((*get_args(hint), Any)[0], 'values')}"
    return WORDS.get(hint) or ("a mapping" if origin is dict else str(hint))


def _shown(value: Any) -> str:
    """As it is typed, text in quotation marks."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)


def _path(where: str, name: Any) -> str:
    return f"{where}.{_spelled(name)}" if where else _spelled(name)


def _spelled(name: Any) -> str:
    """Python does not take `from` as a name."""
    return str(name).removesuffix("_")


def _reason(error: OmegaConfBaseException) -> str:
    return str(error.msg or error).splitlines()[0]
