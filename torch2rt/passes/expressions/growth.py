"""How fast the value of an expression grows with its inputs: what float16's range can hold.

``mul(i0,i0)`` grows as the 2nd power: the square of a value that fits may not fit. ``mul(i0,i1)``
and ``mul(i0,sigmoid(i0))`` grow as the 1st, each input for itself; ``tanh(exp(i0))`` as the 0th.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch2rt import expression as ex

# Bounded whatever the argument is, or grows like a logarithm, or shrinks.
_BOUNDED = frozenset({
    "sigmoid", "hardsigmoid", "tanh", "erf", "sin", "cos", "atan", "atan2", "asin", "acos",
    "sign", "isnan", "isinf", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or",
    "logical_xor", "logical_not", "rsqrt", "reciprocal", "log", "log2", "log10", "log1p", "asinh",
    "acosh",
})
_EXPONENTIAL = frozenset({"exp", "exp2", "expm1", "sinh", "cosh", "tan", "atanh"})
# Of the order of their first argument.
_LIKE_FIRST = frozenset({"div", "floordiv", "truncdiv", "remainder", "fmod", "leaky_relu", "elu"})

_Degrees = Mapping[int, float]


def growth(expression: ex.Expression) -> float:
    """The highest power to which any one input enters; inf for an exponential."""
    return max(_degrees(expression).values(), default=0.0)


def _degrees(node: ex.Expression) -> _Degrees:
    """The power of each input in the value of a node."""
    match node:
        case ex.Input(index=index):
            return {index: 1.0}
        case ex.Constant():
            return {}
    arguments = [_degrees(argument) for argument in node.arguments]
    if node.op in _BOUNDED or _is_clamp_to_numbers(node):
        return {}
    if node.op in _EXPONENTIAL:
        return _scaled(arguments[0], math.inf)
    if node.op in _LIKE_FIRST:
        return arguments[0]
    if node.op == "where":
        return _largest(arguments[1:])
    if node.op == "pow":
        return _power(node, arguments)
    if node.op in ("square", "sqrt"):
        return _scaled(arguments[0], 2.0 if node.op == "square" else 0.5)
    return _sum(arguments) if node.op == "mul" else _largest(arguments)


def _is_clamp_to_numbers(node: ex.Apply) -> bool:
    return node.op == "clamp" and all(
        isinstance(bound, ex.Constant) and math.isfinite(bound.value)
        for bound in node.arguments[1:]
    )


def _power(node: ex.Apply, arguments: list[_Degrees]) -> _Degrees:
    exponent = node.arguments[1]
    if isinstance(exponent, ex.Constant):
        return _scaled(arguments[0], max(float(exponent.value), 0.0))
    return _scaled(_largest(arguments), math.inf)


def _scaled(degrees: _Degrees, factor: float) -> _Degrees:
    return {index: degree * factor for index, degree in degrees.items() if degree > 0 < factor}


def _sum(arguments: list[_Degrees]) -> _Degrees:
    indices = {index for degrees in arguments for index in degrees}
    return {index: sum(d.get(index, 0.0) for d in arguments) for index in indices}


def _largest(arguments: list[_Degrees]) -> _Degrees:
    indices = {index for degrees in arguments for index in degrees}
    return {index: max(d.get(index, 0.0) for d in arguments) for index in indices}
