"""Arithmetic for `${eval:...}` in a config, with no way to reach anything but its numbers."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

Scalar = int | float | bool | str | None

MAX_LENGTH = 1000
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
        tree = ast.parse(expression.strip(), mode="eval")
        return _value(tree.body, names or {})
    except ExpressionError:
        raise
    except (SyntaxError, ValueError, TypeError, ArithmeticError) as error:
        raise ExpressionError(f"cannot evaluate {expression!r}: {error}") from None
    except (RecursionError, MemoryError):
        raise ExpressionError(f"{expression!r} is nested too deeply") from None


def _value(node: ast.AST, names: Mapping[str, Scalar]) -> Scalar:
    handler = _NODES.get(type(node))
    if handler is None:
        raise ExpressionError(f"{type(node).__name__} is not allowed in an expression")
    return _bounded(handler(node, names))


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


def _numbers(*values: Scalar) -> None:
    for value in values:
        if not isinstance(value, int | float):
            raise ExpressionError(f"arithmetic takes numbers, got {type(value).__name__}")


def _constant(node: ast.Constant, names: Mapping[str, Scalar]) -> Scalar:
    return _bounded(node.value)


def _name(node: ast.Name, names: Mapping[str, Scalar]) -> Scalar:
    if node.id not in names:
        raise ExpressionError(f"{node.id!r} is not a known name")
    return names[node.id]


def _unary(node: ast.UnaryOp, names: Mapping[str, Scalar]) -> Scalar:
    operand: Any = _value(node.operand, names)
    if isinstance(node.op, ast.Not):
        return not operand
    if type(node.op) not in _SIGNS:
        raise ExpressionError(f"{type(node.op).__name__} is not allowed in an expression")
    _numbers(operand)
    return _bounded(_SIGNS[type(node.op)](operand))


def _binary(node: ast.BinOp, names: Mapping[str, Scalar]) -> Scalar:
    left, right = _value(node.left, names), _value(node.right, names)
    operation = _OPERATORS.get(type(node.op))
    if operation is None:
        raise ExpressionError(f"{type(node.op).__name__} is not allowed in an expression")
    if not (isinstance(node.op, ast.Add) and isinstance(left, str) and isinstance(right, str)):
        _numbers(left, right)
    return _bounded(operation(left, right))


def _power(base: Any, exponent: Any) -> Any:
    if abs(exponent) > MAX_EXPONENT:
        raise ExpressionError(f"an exponent must be at most {MAX_EXPONENT} in size")
    return base**exponent


def _boolean(node: ast.BoolOp, names: Mapping[str, Scalar]) -> Scalar:
    stops_at = isinstance(node.op, ast.Or)
    value: Scalar = None
    for operand in node.values:
        value = _value(operand, names)
        if bool(value) == stops_at:
            break
    return value


def _conditional(node: ast.IfExp, names: Mapping[str, Scalar]) -> Scalar:
    return _value(node.body if _value(node.test, names) else node.orelse, names)


def _comparison(node: ast.Compare, names: Mapping[str, Scalar]) -> Scalar:
    left = _value(node.left, names)
    for comparison, operand in zip(node.ops, node.comparators, strict=True):
        if type(comparison) not in _COMPARISONS:
            raise ExpressionError(f"{type(comparison).__name__} is not allowed in an expression")
        right = _value(operand, names)
        if not _COMPARISONS[type(comparison)](left, right):
            return False
        left = right
    return True


def _is(left: Scalar, right: Scalar) -> bool:
    if left is not None and right is not None:
        raise ExpressionError("`is` compares with None only")
    return left is right


def _call(node: ast.Call, names: Mapping[str, Scalar]) -> Scalar:
    if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS or node.keywords:
        raise ExpressionError(f"only {', '.join(_FUNCTIONS)} can be called in an expression")
    return _bounded(_FUNCTIONS[node.func.id](*[_value(arg, names) for arg in node.args]))


def _round(value: Any, digits: Any = None) -> Any:
    _numbers(value)
    if digits is not None and abs(digits) > MAX_EXPONENT:
        raise ExpressionError(f"round takes at most {MAX_EXPONENT} digits")
    return round(value, digits)


def _number(kind: type[int] | type[float]) -> Callable[..., Any]:
    def convert(value: Any) -> Any:
        result = kind(value)
        if not math.isfinite(result):
            raise ExpressionError("a number must be finite and at most 2**64")
        return result

    return convert


def _extremum(function: Callable[..., Any]) -> Callable[..., Any]:
    def choose(*values: Any) -> Any:
        _numbers(*values)
        return function(values)

    return choose


_NODES: dict[type[ast.AST], Callable[[Any, Mapping[str, Scalar]], Scalar]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.BoolOp: _boolean,
    ast.IfExp: _conditional,
    ast.Compare: _comparison,
    ast.Call: _call,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: _is,
    ast.IsNot: lambda left, right: not _is(left, right),
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": _number(int),
    "float": _number(float),
    "abs": _extremum(lambda values: abs(*values)),
    "round": _round,
    "min": _extremum(min),
    "max": _extremum(max),
}
