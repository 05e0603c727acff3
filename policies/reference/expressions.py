"""Arithmetic for `${eval:...}` in a config, with no way to reach anything but its numbers."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

Scalar = int | float | bool | str | None

MAX_LENGTH = 1000
MAX_DEPTH = 400
MAX_MAGNITUDE = 2.0**64
MAX_EXPONENT = 64


class ExpressionError(ValueError):
    """The expression is not arithmetic, or its value is out of bounds."""


def evaluate(expression: str, names: Mapping[str, Scalar] | None = None) -> Scalar:
    """The value of an arithmetic expression, by Python's rules.

    Allowed: numbers, strings, True, False, None, names from `names`, + - * / // % **, comparisons,
    and/or/not, `a if b else c`, and the calls int, float, abs, round, min and max.

    Raises:
        ExpressionError: for anything else, and for magnitudes over 2**64.
    """
    if len(expression) > MAX_LENGTH:
        raise ExpressionError(
            f"an expression has at most {MAX_LENGTH} characters, got {len(expression)}"
        )
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, names or {}, 0)
    except ExpressionError:
        raise
    except (SyntaxError, ValueError, TypeError, ArithmeticError) as error:
        raise ExpressionError(f"cannot evaluate {expression!r}: {error}") from None
    except (RecursionError, MemoryError):
        raise ExpressionError(f"{expression!r} is nested too deeply") from None


def _value(node: ast.AST, names: Mapping[str, Scalar], depth: int) -> Scalar:
    def of(child: ast.AST) -> Any:
        return _value(child, names, depth + 1)

    if depth > MAX_DEPTH:
        raise RecursionError
    result: Any = None
    match node:
        case ast.Constant():
            result = node.value
        case ast.Name() if node.id in names:
            result = names[node.id]
        case ast.Name():
            raise ExpressionError(f"{node.id!r} is not a known name")
        case ast.UnaryOp(op=ast.Not()):
            result = not of(node.operand)
        case ast.UnaryOp():
            result = _calculated(node.op, of(node.operand))
        case ast.BinOp():
            result = _calculated(node.op, of(node.left), of(node.right))
        case ast.BoolOp():
            for operand in node.values:
                result = of(operand)
                if bool(result) == isinstance(node.op, ast.Or):
                    break
        case ast.IfExp():
            result = of(node.body if of(node.test) else node.orelse)
        case ast.Compare():
            left = of(node.left)
            for operation, operand in zip(node.ops, node.comparators, strict=True):
                right = of(operand)
                result = bool(_operator(operation)(left, right))
                if not result:
                    break
                left = right
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
            result = _FUNCTIONS[name](*map(of, node.args))
        case ast.Call():
            raise ExpressionError(f"only {', '.join(_FUNCTIONS)} can be called in an expression")
        case _:
            raise _not_allowed(node)
    return _bounded(result)


def _not_allowed(node: ast.AST) -> ExpressionError:
    return ExpressionError(f"{type(node).__name__} is not allowed in an expression")


def _bounded(value: Any) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) <= MAX_LENGTH:
            return value
        raise ExpressionError(f"a string has at most {MAX_LENGTH} characters, got {len(value)}")
    if not isinstance(value, int | float):
        raise ExpressionError(f"a value must be a number or a string, got {type(value).__name__}")
    if not abs(value) <= MAX_MAGNITUDE:
        raise ExpressionError("a number must be finite and at most 2**64")
    return value


def _numbers(*values: Any) -> None:
    for value in values:
        if not isinstance(value, int | float):
            raise ExpressionError(f"arithmetic takes numbers, got {type(value).__name__}")


def _operator(node: ast.AST) -> Callable[..., Any]:
    if type(node) not in _OPERATORS:
        raise _not_allowed(node)
    return _OPERATORS[type(node)]


def _calculated(node: ast.AST, *operands: Any) -> Any:
    if not (isinstance(node, ast.Add) and all(isinstance(o, str) for o in operands)):
        _numbers(*operands)
    return _operator(node)(*operands)


def _power(base: Any, exponent: Any) -> Any:
    if abs(exponent) > MAX_EXPONENT:
        raise ExpressionError(f"an exponent must be at most {MAX_EXPONENT} in size")
    return base**exponent


def _is(left: Scalar, right: Scalar) -> bool:
    if left is not None and right is not None:
        raise ExpressionError("`is` compares with None only")
    return left is right


def _round(value: Any, digits: Any = None) -> Any:
    _numbers(value)
    if digits is not None and abs(digits) > MAX_EXPONENT:
        raise ExpressionError(f"round takes at most {MAX_EXPONENT} digits")
    return round(value, digits)


def _finite(value: Any) -> Any:
    if not math.isfinite(value):
        raise ExpressionError("a number must be finite and at most 2**64")
    return value


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        _numbers(*values)
        return function(values)

    return call


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    **{ast.UAdd: operator.pos, ast.USub: operator.neg},
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: _power},
    **{ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le},
    **{ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Is: _is, ast.IsNot: lambda left, right: not _is(left, right)},
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": lambda value: _finite(int(value)),
    "float": lambda value: _finite(float(value)),
    "abs": _of_numbers(lambda values: abs(*values)),
    "round": _round,
    "min": _of_numbers(min),
    "max": _of_numbers(max),
}
