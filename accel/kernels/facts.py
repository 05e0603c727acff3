"""What the compiled code can do here: found out by compiling it, or expected before that.

A command line is checked before anything runs, and compiling takes a while: the check expects that
what a compiler is there for will work, and whoever runs the checked job finds out whether it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .compiled import has_compiler

Fact = Callable[[], bool]

_expecting: ContextVar[bool] = ContextVar("expecting", default=False)
_noted: ContextVar[dict[Fact, bool] | None] = ContextVar("noted", default=None)


def known(fact: Fact) -> bool:
    """Whether it holds; within `expecting`, whether there is a compiler."""
    holds = has_compiler() if _expecting.get() else fact()
    noted = _noted.get()
    if noted is not None:
        noted[fact] = holds
    return holds


@contextmanager
def expecting() -> Iterator[None]:
    """Within it nothing is compiled."""
    token = _expecting.set(True)
    try:
        yield
    finally:
        _expecting.reset(token)


@contextmanager
def noting() -> Iterator[dict[Fact, bool]]:
    """The facts that are asked for within it, with their answers."""
    facts: dict[Fact, bool] = {}
    token = _noted.set(facts)
    try:
        yield facts
    finally:
        _noted.reset(token)


def hold(facts: dict[Fact, bool]) -> bool:
    """Whether they are as they were noted."""
    return all(known(fact) == noted for fact, noted in facts.items())
