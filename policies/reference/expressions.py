"""Arithmetic for `${eval:...}` in a config, with no way to reach anything but its numbers."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

Scalar = int | float | bool | str | None

MAX_LENGTH = 1000
MAX_MAGNITUDE = 2.0**64
MAX_EXPONENT = 64


class ExpressionError(ValueError):
    """The expression is not arithmetic, or its value is out of bounds."""


def evaluate(expression: str) -> Scalar:
    """The value of an arithmetic expression, by Python's rules.

    Allowed: numbers, strings, True, False, None, + - * / // % **, comparisons, and/or/not,
    `a if b else c`, and the calls int, float, abs, round, min and max.

    Raises:
        ExpressionError: for anything else, and for magnitudes over 2**64.
    """
    if len(expression) > MAX_LENGTH:
        raise ExpressionError(
            f"an expression has at most {MAX_LENGTH} characters, got {len(expression)}"
        )
    try:
        found: Scalar = _value(ast.parse(expression.strip(), mode="eval").body)
        return found
    except ExpressionError:
        raise
    except (SyntaxError, ValueError, TypeError, ArithmeticError) as error:
        raise ExpressionError(f"cannot evaluate {expression!r}: {error}") from None
    except (RecursionError, MemoryError):
        raise ExpressionError(f"{expression!r} is nested too deeply") from None


def _value(node: ast.AST) -> Any:
    found: Any
    match node:
        case ast.Constant(value=found):
            pass
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            found = not _value(operand)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
            (found,) = _numbers(_value(operand))
            found = +found if isinstance(sign, ast.UAdd) else -found
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            pair = _value(left), _value(right)
            joined = isinstance(op, ast.Add) and all(isinstance(part, str) for part in pair)
            found = _OPERATORS[type(op)](*(pair if joined else _numbers(*pair)))
        case ast.BoolOp(op=op, values=values):
            for operand in values:
                if bool(found := _value(operand)) == isinstance(op, ast.Or):
                    break
        case ast.IfExp(test=test, body=body, orelse=orelse):
            found = _value(body if _value(test) else orelse)
        case ast.Compare(left=left, ops=ops, comparators=others):
            found = _compared(_value(left), ops, others)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            found = _FUNCTIONS[name](*map(_value, args))
        case _:
            raise ExpressionError(f"{type(node).__name__} is not allowed in an expression")
    return _bounded(found)


def _compared(left: Any, ops: list[ast.cmpop], others: list[ast.expr]) -> bool:
    for op, other in zip(ops, others, strict=True):
        if type(op) not in _COMPARISONS:
            raise ExpressionError(f"{type(op).__name__} is not allowed in an expression")
        right = _value(other)
        if isinstance(op, ast.Is | ast.IsNot) and left is not None and right is not None:
            raise ExpressionError("`is` compares with None only")
        if not _COMPARISONS[type(op)](left, right):
            return False
        left = right
    return True


def _bounded(value: Any) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= MAX_LENGTH:
        return value
    if isinstance(value, int | float) and abs(value) <= MAX_MAGNITUDE:  # neither inf nor NaN
        return value
    raise ExpressionError(
        f"a value must be a string of at most {MAX_LENGTH} characters or a finite number of at "
        f"most 2**64, got a {type(value).__name__}"
    )


def _numbers(*values: Any) -> tuple[Any, ...]:
    for value in values:
        if not isinstance(value, int | float):
            raise ExpressionError(f"arithmetic takes numbers, got {type(value).__name__}")
    return values


def _small(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a number and of an exponent or a number of digits, which must not take forever."""

    def bounded(value: Any, *more: Any) -> Any:
        if any(abs(size) > MAX_EXPONENT for size in _numbers(*more)):
            raise ExpressionError(f"{function.__name__} takes at most {MAX_EXPONENT} in size")
        return function(*_numbers(value), *more)

    return bounded


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul},
    **{ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod},
    ast.Pow: _small(operator.pow),
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le},
    **{ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not},
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{"int": int, "float": float, "round": _small(round)},
    "abs": lambda value: abs(*_numbers(value)),
    "min": lambda *values: min(_numbers(*values)),
    "max": lambda *values: max(_numbers(*values)),
}
