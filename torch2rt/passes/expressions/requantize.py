"""The scale of a result that is stored in 8 bits, moved to where constants take it.

    Before: clamp(round(mul(relu(add(mul(x, s), b)), c)), -128, 127)
    After:  clamp(round(relu(add(mul(x, s * c), b * c))), -128, 127)

A positive factor passes through relu, clamps and additions. Bounds that the 8 bits have anyway
are dropped.
"""

from __future__ import annotations

from collections.abc import Collection

from torch2rt import expression as ex

# A bound this near to the end of the range rounds to the end.
_ROUNDS_UP = 0.499
# A factor this near to 1 is a scale in float32 times its own reciprocal.
_ONE = 3e-7


def with_scale_inside(expression: ex.Expression, constants: Collection[int]) -> ex.Expression:
    """The expression, if it rounds to 8 bits, with its last scale inside; else the same.

    ``constants`` are the inputs that are known: products of them are folded later.
    """
    match expression:
        case ex.Apply("to_int8" | "to_uint8" as cast, (ex.Apply("clamp", (value, low, high)),)):
            inner = _rounded(value, constants, low, high)
            return ex.apply(cast, ex.apply("clamp", inner, low, high))
    return expression


def _rounded(
    value: ex.Expression, constants: Collection[int], low: ex.Expression, high: ex.Expression
) -> ex.Expression:
    match value:
        case ex.Apply("round", (argument,)):
            pass
        case _:
            return value
    match argument:
        case ex.Apply("mul", (inner, ex.Constant(factor))) if factor > 0:
            scaled = _scaled(inner, float(factor), constants)
            argument = argument if scaled is None else scaled
    if isinstance(low, ex.Constant) and isinstance(high, ex.Constant):
        argument = _without_bounds(argument, float(low.value), float(high.value))
    return ex.apply("round", argument)


def _scaled(
    value: ex.Expression, factor: float, constants: Collection[int]
) -> ex.Expression | None:
    """``value * factor`` without another operation once constants are folded; None if not so."""
    match value:
        case ex.Constant(number):
            return ex.Constant(float(number) * factor)
        case ex.Input(index) if index in constants:
            return ex.apply("mul", value, factor)
        case ex.Apply("mul", (inner, ex.Constant(number))):
            product = float(number) * factor
            is_one = abs(product - 1) < _ONE
            return inner if is_one else ex.apply("mul", inner, product)
        case ex.Apply("mul", (_, ex.Input(index))) if index in constants:
            return ex.apply("mul", value, factor)
        case ex.Apply("relu", (inner,)):
            return _applied("relu", [_scaled(inner, factor, constants)])
        case ex.Apply("add" | "sub" | "max" | "min" | "clamp" as op, arguments):
            return _applied(op, [_scaled(item, factor, constants) for item in arguments])
        case ex.Apply("leaky_relu", (inner, slope)):
            return _applied("leaky_relu", [_scaled(inner, factor, constants), slope])
    return None


def _applied(op: str, arguments: list[ex.Expression | None]) -> ex.Expression | None:
    found = [argument for argument in arguments if argument is not None]
    return ex.apply(op, *found) if len(found) == len(arguments) else None


def _without_bounds(value: ex.Expression, low: float, high: float) -> ex.Expression:
    """The value without clamps that clamping to low..high after rounding makes superfluous."""
    match value:
        case ex.Apply("relu", (inner,)) if low >= 0:
            return _without_bounds(inner, low, high)
        case ex.Apply("clamp", (inner, ex.Constant(lowest), ex.Constant(highest))):
            has_low, has_high = lowest > low, highest < high - _ROUNDS_UP
            if not has_low and not has_high:
                return _without_bounds(inner, low, high)
            if not has_high:
                return ex.apply("max", inner, lowest) if lowest else ex.apply("relu", inner)
            if not has_low:
                return ex.apply("min", inner, highest)
    return value
