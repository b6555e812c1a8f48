"""Prints expressions as pointwise nodes of cuDNN graphs.

CuDNN broadcasts the second operand of a node to the first, so the computed value goes first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch2rt import expression as ex
from torch2rt.backends.cuda.cudnn.description import GraphWriter, Literal, NotInCudnn, Value

# Ops that cuDNN has under this name.
_SAME = {
    "abs": "abs", "neg": "neg", "ceil": "ceil", "floor": "floor", "exp": "exp", "log": "log",
    "sqrt": "sqrt", "rsqrt": "rsqrt", "reciprocal": "reciprocal", "erf": "erf", "sin": "sin",
    "cos": "cos", "tan": "tan", "tanh": "tanh", "sigmoid": "sigmoid", "relu": "relu",
    "gelu": "gelu", "gelu_tanh": "gelu_approx_tanh", "silu": "swish",
}
_COMMUTATIVE = {"add": "add", "mul": "mul", "max": "max", "min": "min"}
_Rule = Callable[[GraphWriter, Sequence[Value]], Value]


def print_cudnn(
    expression: ex.Expression, writer: GraphWriter, inputs: Sequence[Value]
) -> Value:
    """Add the nodes of an expression over ``inputs``; the value it has. NotInCudnn if it cannot."""
    done: dict[ex.Expression, Value] = {}

    def value(node: ex.Expression) -> Value:
        if isinstance(node, ex.Input):
            return inputs[node.index]
        if isinstance(node, ex.Constant):
            return _literal(node)
        if node not in done:
            done[node] = _apply(writer, node.op, [value(a) for a in node.arguments])
        return done[node]

    return value(expression)


def _literal(constant: ex.Constant) -> Literal:
    if isinstance(constant.value, bool) or math.isnan(constant.value):
        raise NotInCudnn(f"the constant {constant.text}")
    return Literal(float(constant.value))


def _apply(writer: GraphWriter, op: str, arguments: Sequence[Value]) -> Value:
    if all(isinstance(argument, Literal) for argument in arguments):
        raise NotInCudnn(f"{op} of constants alone")
    if op in _SAME:
        return writer.node(_SAME[op], *arguments)
    if op in _COMMUTATIVE:
        return writer.node(_COMMUTATIVE[op], *_computed_first(writer, arguments))
    if op not in _RULES:
        raise NotInCudnn(f"cuDNN graphs have no {op} that means the same")
    return _RULES[op](writer, arguments)


def _computed_first(writer: GraphWriter, arguments: Sequence[Value]) -> list[Value]:
    """Computed values, then operands, then literals."""

    def rank(value: Value) -> int:
        return 2 if isinstance(value, Literal) else 0 if writer.is_computed(value) else 1

    return sorted(arguments, key=rank)


def _number(value: Value, what: str) -> float:
    if not isinstance(value, Literal):
        raise NotInCudnn(f"{what} that is not a constant")
    return value.value


def _subtract(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    """X - y, as a sum where y comes first."""
    x, y = arguments
    if isinstance(y, Literal):
        return writer.node("add", x, Literal(-y.value))
    if writer.is_computed(x):
        return writer.node("sub", x, y)
    return writer.node("add", writer.node("neg", y), x)


def _divide(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    """X / y, as a product where y comes first."""
    x, y = arguments
    if isinstance(y, Literal):
        if y.value == 0 or not math.isfinite(1 / y.value):
            raise NotInCudnn(f"a division by {y.value}")
        return writer.node("mul", x, Literal(1 / y.value))
    if writer.is_computed(x):
        return writer.node("div", x, y)
    return writer.node("mul", writer.node("reciprocal", y), x)


def _power(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    """X ** 2 and x ** 3 as products; other powers depend on how a library treats signs."""
    x, exponent = arguments[0], _number(arguments[1], "an exponent")
    if exponent not in (2, 3):
        raise NotInCudnn(f"the exponent {exponent}")
    square = writer.node("mul", x, x)
    return square if exponent == 2 else writer.node("mul", square, x)


def _square(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    return writer.node("mul", arguments[0], arguments[0])


def _clamp(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    """min(max(x, low), high), in one node where both bounds are finite."""
    x, low, high = arguments[0], _number(arguments[1], "a bound"), _number(arguments[2], "a bound")
    if math.isfinite(low) and math.isfinite(high) and low <= high:
        return writer.node("relu", x, lower_clip=low, upper_clip=high)
    if low != -math.inf:
        x = writer.node("max", x, Literal(low))
    return x if high == math.inf else writer.node("min", x, Literal(high))


def _leaky_relu(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    slope = _number(arguments[1], "a slope")
    return writer.node("relu", arguments[0], negative_slope=slope)


def _elu(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    if _number(arguments[1], "alpha") != 1:
        raise NotInCudnn("elu with an alpha other than 1")
    return writer.node("elu", arguments[0])


def _hardsigmoid(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    """clamp(x + 3, 0, 6) / 6."""
    moved = writer.node("add", arguments[0], Literal(3.0))
    clipped = writer.node("relu", moved, lower_clip=0.0, upper_clip=6.0)
    return writer.node("mul", clipped, Literal(1 / 6))


def _hardswish(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    """X * hardsigmoid(x)."""
    return writer.node("mul", _hardsigmoid(writer, arguments), arguments[0])


def _same_value(writer: GraphWriter, arguments: Sequence[Value]) -> Value:
    """Everything between operands and output is float32 already."""
    return arguments[0]


_RULES: dict[str, _Rule] = {
    "sub": _subtract, "div": _divide, "pow": _power, "square": _square, "clamp": _clamp,
    "leaky_relu": _leaky_relu, "elu": _elu, "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish, "to_float32": _same_value,
}
