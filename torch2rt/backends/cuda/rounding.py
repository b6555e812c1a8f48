"""Expressions that round to bytes, which kernels do in one go, and how bytes are read."""

from __future__ import annotations

from collections.abc import Collection

from torch2rt import expression as ex
from torch2rt.network.torch_cast import FLOAT8_MAX


def rounded_bytes(expression: ex.Expression) -> tuple[ex.Expression, float, float] | None:
    """(x, low, high) of ``to_int8(clamp(round(x), low, high))``, bounds within a byte's."""
    match expression:
        case ex.Apply("to_int8", (ex.Apply("clamp", (ex.Apply("round", (x,)), low, high)),)):
            if not isinstance(low, ex.Constant) or not isinstance(high, ex.Constant):
                return None
            bounds = float(low.value), float(high.value)
            is_whole = all(bound.is_integer() for bound in bounds)
            if is_whole and -128 <= bounds[0] <= bounds[1] <= 127:
                return x, *bounds
    return None


def unsaturated(expression: ex.Expression) -> ex.Expression:
    """What a float8 result is rounded from: storing cuts it to -448..448 and rounds it anyway."""
    match expression:
        case ex.Apply("clamp", (x, ex.Constant(value=low), ex.Constant(value=high))):
            return x if (low, high) == (-FLOAT8_MAX, FLOAT8_MAX) else expression
    return expression


def is_never_negative(expression: ex.Expression) -> bool:
    """Whether values are known to be 0 or more, or NaN."""
    match expression:
        case ex.Apply("relu" | "abs" | "sigmoid" | "square"):
            return True
        case ex.Apply("mul", (x, ex.Constant(value=number))):
            return number >= 0 and is_never_negative(x)
        case ex.Apply("clamp", (_, ex.Constant(value=low), _)):
            return low >= 0
    return False


def integer_arithmetic(
    expression: ex.Expression | None, integers: Collection[int]
) -> ex.Expression | None:
    """A part that reads one of these inputs, which are integers, without ``to_float32``.

    None: kernels may compute it in float32 throughout.
    """
    if expression is None:
        return None
    if isinstance(expression, ex.Input):
        return expression if expression.index in integers else None
    for node in ex.walk(expression):
        if isinstance(node, ex.Apply) and node.op == "to_float32":
            continue
        if any(isinstance(a, ex.Input) and a.index in integers for a in node.arguments):
            return node
    return None
