"""Turning the records of a pickle into plain data, with a builder for each name that is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .inert_pickle import Call, Name, Persistent, RefusedError, shown

MAX_DEPTH = 100
MAX_VALUES = 2_000_000
MAX_INT_BITS = 1024

T = TypeVar("T")
Builder = Callable[["Converter", Call], Any]


def convert(record: Any, builders: Mapping[str, Builder | None]) -> Any:
    """Turns records into dicts, lists, tuples, scalars and what the builders make of calls.

    Raises:
        RefusedError: for a call without a builder, or data that is too deep, large or malformed.
    """
    try:
        return Converter(builders).value(record)
    except RefusedError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise RefusedError(f"an object in it is malformed ({type(error).__name__})") from None


@dataclass
class Converter:
    """One walk over the records, within limits of depth and size."""

    builders: Mapping[str, Builder | None]
    depth: int = 0
    left: int = MAX_VALUES

    def value(self, record: Any) -> Any:
        """Plain data for any record."""
        self.left -= 1
        if self.depth == MAX_DEPTH or self.left < 0:
            raise RefusedError("its objects are nested in a circle, too deeply or too many times")
        self.depth += 1
        result = _CONVERTERS[type(record)](self, record)
        self.depth -= 1
        return result

    def integer(self, number: int) -> int:
        """An integer of a sane size."""
        if number.bit_length() > MAX_INT_BITS:
            raise RefusedError(f"an integer of {number.bit_length()} bits is not allowed")
        return number

    def items(self, items: list[Any]) -> list[Any]:
        """A list of plain data."""
        return [self.value(item) for item in items]

    def mapping(self, entries: Any) -> dict[Any, Any]:
        """A dict of plain data from (key, record) pairs."""
        result = {}
        for key, value in entries:
            if isinstance(key, Name | Call | tuple):
                raise RefusedError("a dictionary key must be a string, a number or None")
            result[key] = self.value(value)
        return result

    def call(self, call: Call) -> Any:
        """What the builder of the called name makes of the arguments."""
        if not isinstance(call.function, Name):
            raise RefusedError("it calls an object that it computes, which is not allowed")
        builder = self.builders.get(call.function.text)
        if builder is None:
            raise RefusedError(f"a call of {shown(call.function.text)} is not allowed")
        return builder(self, call)

    def persistent(self, record: Persistent) -> Any:
        """Storages are only reached through the tensors that lie in them."""
        raise RefusedError("a tensor's storage occurs outside of a tensor")


_CONVERTERS: dict[type, Callable[[Converter, Any], Any]] = {
    **dict.fromkeys((str, bytes, float, bool, type(None)), lambda _, value: value),
    int: Converter.integer,
    list: Converter.items,
    tuple: lambda converter, items: tuple(converter.items(items)),
    dict: lambda converter, mapping: converter.mapping(mapping.items()),
    Name: lambda _, name: name.text,
    Call: Converter.call,
    Persistent: Converter.persistent,
}


def of_type(kind: type[T], value: Any) -> T:
    """`value`, if it is of exactly this type."""
    if type(value) is not kind:
        raise RefusedError(f"expected {kind.__name__} in an object, got {type(value).__name__}")
    return value


def naturals(values: Any) -> tuple[int, ...]:
    """`values`, if it is a tuple of sizes."""
    if type(values) is not tuple or any(type(n) is not int or not 0 <= n < 2**62 for n in values):
        raise RefusedError("sizes, strides and offsets must be integers from 0 to 2**62")
    return values
