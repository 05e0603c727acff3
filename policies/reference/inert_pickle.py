"""Parsing a pickle stream into records, without calling or importing anything it names.

A pickle is a program for a stack machine whose instructions may import any object and call it.
Here the same instructions only build data: an import becomes a `Name`, a call becomes a `Call` that
holds its arguments. What the few names of a checkpoint stand for is decided in `inert_names`.
"""

from __future__ import annotations

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

LOAD_TYPE = "dill._dill._load_type"


class RefusedError(ValueError):
    """The data holds what a checkpoint may not hold; the message does not name the file."""


@dataclass(frozen=True, eq=False, repr=False)
class Name:
    """An object that unpickling would import."""

    text: str


@dataclass(frozen=True, eq=False, repr=False)
class Persistent:
    """A reference to data outside the stream, such as a tensor's storage."""

    id: Any


@dataclass(eq=False, repr=False)
class Call:
    """A call that unpickling would make, and what it would do to the result afterwards."""

    function: Any
    args: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False, repr=False)
class Parsed:
    """The records of a stream and the names it would import, in their order."""

    root: Any
    names: list[str]


def parse(stream: bytes, allowed: Container[str] | None = None) -> Parsed:
    """Parses a pickle of any protocol.

    Args:
        stream: the pickle.
        allowed: the names that it may import; None: any, which is as inert.

    Raises:
        RefusedError: if the stream is damaged or uses what no checkpoint needs.
    """
    machine = _Machine(allowed)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            handler = _HANDLERS.get(opcode.name)
            if handler is None:
                raise RefusedError(f"pickle opcode {opcode.name} is not allowed in a checkpoint")
            handler(machine, argument)
        return Parsed(machine.stack.pop(), machine.names)
    except RefusedError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise RefusedError(f"the pickle is damaged ({type(error).__name__})") from None


def shown(text: str) -> str:
    """A string of the file, fit for a one-line message."""
    return ascii(text)[1:-1][:120]


class _Machine:
    def __init__(self, allowed: Container[str] | None) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: list[str] = []
        self.protocol = 0

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def start(self, protocol: int) -> None:
        if protocol > 5:
            raise RefusedError(f"pickle protocol must be at most 5, got {protocol}")
        self.protocol = protocol

    def name(self, text: str) -> None:
        if self.allowed is not None and text not in self.allowed:
            raise RefusedError(f"asks for {shown(text)}, which is not allowed; nothing was run")
        self.names.append(text)
        self.push(Name(text))

    def imported(self, module: str, attribute: str) -> None:
        if self.protocol < 3:
            # The old protocols write Python 2's names: __builtin__, copy_reg, commands, ...
            module, attribute = NAME_MAPPING.get((module, attribute), (module, attribute))
            module = IMPORT_MAPPING.get(module, module)
        self.name(f"{module}.{attribute}")

    def stack_name(self) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(attribute, str) and isinstance(module, str)):
            raise RefusedError("a name to import is computed by the file, which is not allowed")
        self.imported(module, attribute)

    def call(self, function: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise RefusedError(f"a call takes a tuple of arguments, got {type(args).__name__}")
        if isinstance(function, Name) and function.text == LOAD_TYPE:
            # The one name that returns types by their names: its argument is the name that counts.
            self.name(f"{LOAD_TYPE}({', '.join(map(_type_argument, args))})")
        else:
            self.push(Call(function, args))

    def reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args)

    def new_with_keywords(self) -> None:
        keywords, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.call(function, (*args, keywords))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Call):
            raise RefusedError(f"a state for a {type(target).__name__} is not allowed")
        target.state = state

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Call | list):
            raise RefusedError(f"items for a {type(target).__name__} are not allowed")
        (target.items if isinstance(target, Call) else target).extend(items)

    def update(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Call | dict):
            raise RefusedError(f"entries for a {type(target).__name__} are not allowed")
        pairs = list(zip(map(_checked_key, flat[::2]), flat[1::2], strict=True))
        if isinstance(target, Call):
            target.entries.extend(pairs)
        else:
            target.update(pairs)

    def dictionary(self) -> None:
        flat = self.pop_mark()
        self.push({})
        self.update(flat)

    def pop_tail(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        tail = self.stack[-count:]
        del self.stack[-count:]
        return tail


_KEYS = (str, int, float, bool, bytes, type(None), Name, Call)


def _checked_key(key: Any) -> Any:
    if not _is_key(key, depth=8):
        raise RefusedError(f"a dictionary key of type {type(key).__name__} is not allowed")
    return key


def _is_key(key: Any, depth: int) -> bool:
    # Hashing nested tuples recurses without a limit in C and would overflow its stack.
    if isinstance(key, tuple):
        return depth > 0 and all(_is_key(part, depth - 1) for part in key)
    return isinstance(key, _KEYS)


def _type_argument(argument: Any) -> str:
    return repr(argument) if isinstance(argument, str) else type(argument).__name__


_PUSHED_AS_READ = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
)

_HANDLERS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_PUSHED_AS_READ, lambda m, value: m.push(value)),
    "BYTEARRAY8": lambda m, value: m.push(bytes(value)),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "PROTO": lambda m, protocol: m.start(protocol),
    **dict.fromkeys(("FRAME", "STOP"), lambda m, _: None),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.pop_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, i: m.memo.update({i: m.stack[-1]})),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, i: m.push(m.memo[i])),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop_tail(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop_tail(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop_tail(3))),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda m, _: m.push([])),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda m, _: m.push(m.pop_mark())),
    "APPEND": lambda m, _: m.extend(m.pop_tail(1)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, _: m.extend(m.pop_mark())),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.dictionary(),
    "SETITEM": lambda m, _: m.update(m.pop_tail(2)),
    "SETITEMS": lambda m, _: m.update(m.pop_mark()),
    "GLOBAL": lambda m, text: m.imported(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.stack_name(),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, _: m.reduce()),
    "NEWOBJ_EX": lambda m, _: m.new_with_keywords(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.push(Persistent(m.stack.pop())),
}
